#include "src/train/distributed/star.h"

#include <ATen/ATen.h>

#include "stuffed/core/error.h"

namespace stuffed::train {

namespace {

constexpr int64_t kBucketElements = 1 << 20;  // sent at a time, so that memory stays small

// Operations.
constexpr uint32_t kSum = 1, kCombine = 2, kBroadcastText = 3, kBroadcastTensor = 4, kGather = 5;

/// In front of every message: ranks that are at different operations must not take one for another.
struct MessageHead {
  uint32_t operation = 0;
  uint32_t unused = 0;
  uint64_t bytes = 0;
};

}  // namespace

std::string lost_rank_text(int rank, int size) {
  return fmt::format(
      "rank {} of {} is gone: its process ended, or its host cannot be reached. All ranks stop; "
      "start "
      "them all again to go on from the last checkpoint",
      rank, size);
}

Star::Star(int rank, int size, std::vector<Socket> peers)
    : rank_(rank), size_(size), peers_(std::move(peers)) {
  check(peers_.size() == static_cast<size_t>(rank == 0 ? size - 1 : 1), Error::Kind::Internal,
        "rank {} of {} has {} connections", rank, size, peers_.size());
}

void Star::lost(size_t peer) const {
  const int rank = rank_ == 0 ? static_cast<int>(peer) + 1 : 0;
  throw Error(kRankLost, lost_rank_text(rank, size_));
}

void Star::send(size_t peer, uint32_t operation, const void* data, size_t bytes) const {
  const MessageHead head = {.operation = operation, .unused = 0, .bytes = bytes};
  const Socket& to = peers_[peer];
  if (!to.send(&head, sizeof head, /*more=*/bytes > 0) || !to.send(data, bytes))
    lost(peer);
}

size_t Star::size_of_next(size_t peer, uint32_t operation) const {
  MessageHead head;
  if (!peers_[peer].receive(&head, sizeof head))
    lost(peer);
  check(head.operation == operation, Error::Kind::Internal,
        "ranks are out of step: operation {} met operation {}", operation, head.operation);
  return head.bytes;
}

void Star::receive(size_t peer, uint32_t operation, void* data, size_t bytes) const {
  const size_t coming = size_of_next(peer, operation);
  check(coming == bytes, Error::Kind::Internal, "ranks are out of step: {} bytes came, expected {}",
        coming, bytes);
  if (!peers_[peer].receive(data, bytes))
    lost(peer);
}

void Star::sum_bucket(const Tensor& bucket, const Tensor& other) const {
  const size_t bytes = bucket.nbytes();
  if (rank_ != 0) {
    send(0, kSum, bucket.const_data_ptr(), bytes);
    return receive(0, kSum, bucket.mutable_data_ptr(), bytes);
  }
  for (size_t peer = 0; peer < peers_.size(); ++peer) {
    receive(peer, kSum, other.mutable_data_ptr(), bytes);
    Tensor(bucket).add_(other);
  }
  for (size_t peer = 0; peer < peers_.size(); ++peer)
    send(peer, kSum, bucket.const_data_ptr(), bytes);
}

void Star::sum(const std::vector<Tensor>& tensors) {
  if (tensors.empty())
    return;
  std::vector<Tensor> flat;
  for (const Tensor& tensor : tensors) {
    check(tensor.scalar_type() == tensors[0].scalar_type(), Error::Kind::Internal,
          "a sum over tensors of different types");
    flat.push_back(tensor.reshape({-1}).to(at::kCPU));
  }
  const Tensor all = at::cat(flat);
  const Tensor other = at::empty({std::min(kBucketElements, all.numel())}, all.options());
  for (const Tensor& bucket : all.split(kBucketElements))
    sum_bucket(bucket, other.narrow(0, 0, bucket.numel()));
  int64_t begin = 0;
  for (const Tensor& tensor : tensors) {
    tensor.copy_(all.narrow(0, begin, tensor.numel()).view(tensor.sizes()));
    begin += tensor.numel();
  }
}

uint32_t Star::combine(uint32_t flags) {
  uint32_t all = flags;
  if (rank_ == 0)
    for (size_t peer = 0; peer < peers_.size(); ++peer) {
      uint32_t theirs = 0;
      receive(peer, kCombine, &theirs, sizeof theirs);
      all |= theirs;
    }
  for (size_t peer = 0; peer < peers_.size(); ++peer)
    send(peer, kCombine, &all, sizeof all);
  if (rank_ != 0)
    receive(0, kCombine, &all, sizeof all);
  return all;
}

std::string Star::broadcast(const std::string& text) {
  if (rank_ == 0) {
    for (size_t peer = 0; peer < peers_.size(); ++peer)
      send(peer, kBroadcastText, text.data(), text.size());
    return text;
  }
  std::string theirs(size_of_next(0, kBroadcastText), '\0');
  if (!peers_[0].receive(theirs.data(), theirs.size()))
    lost(0);
  return theirs;
}

void Star::broadcast(const Tensor& tensor) {
  const Tensor here = tensor.to(at::kCPU).contiguous();
  if (rank_ == 0) {
    for (size_t peer = 0; peer < peers_.size(); ++peer)
      send(peer, kBroadcastTensor, here.const_data_ptr(), here.nbytes());
    return;
  }
  receive(0, kBroadcastTensor, here.mutable_data_ptr(), here.nbytes());
  tensor.copy_(here);
}

std::vector<Tensor> Star::gather(const Tensor& tensor) {
  const Tensor here = tensor.to(at::kCPU).contiguous();
  if (rank_ != 0) {
    send(0, kGather, here.const_data_ptr(), here.nbytes());
    return {};
  }
  std::vector<Tensor> all = {here};
  for (size_t peer = 0; peer < peers_.size(); ++peer) {
    all.push_back(at::empty_like(here));
    receive(peer, kGather, all.back().mutable_data_ptr(), here.nbytes());
  }
  return all;
}

}  // namespace stuffed::train
