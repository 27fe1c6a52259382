#include "stuffed/train/ranks.h"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include "src/train/distributed/lifeline.h"
#include "src/train/distributed/rendezvous.h"
#include "src/train/distributed/star.h"
#include "stuffed/core/cuda_library.h"
#include "stuffed/core/error.h"

namespace stuffed::train {

namespace {

/// Sums on a GPU. Errors  Unsupported if the build cannot
std::unique_ptr<AllReduce> reduce_on_gpu(const Launch& launch,
                                         const c10::intrusive_ptr<c10d::Store>& store,
                                         at::Device device) {
  const CudaLibrary* const library = cuda_library();
  return library->all_reduce(store, launch.rank, launch.size, device.index());
}

void check_can_reduce(at::Device device) {
  check(device.is_cpu() || (cuda_library() && cuda_library()->all_reduce), Error::Kind::Unsupported,
        "--distributed: this build cannot sum over GPUs, as it was made without NCCL's header; try "
        "--device cpu");
}

}  // namespace

struct Ranks::Members {
  Members(const Launch& of_launch, at::Device device, Met met)
      : launch(of_launch),
        store(device.is_cpu() ? nullptr : met.store),
        lifeline(launch.rank, launch.size, std::move(met.lifelines)),
        star(launch.rank, launch.size, std::move(met.data)),
        on_gpu(device.is_cpu() ? nullptr : reduce_on_gpu(launch, store, device)) {}

  AllReduce& all_reduce() { return on_gpu ? *on_gpu : star; }

  Launch launch;
  c10::intrusive_ptr<c10d::Store> store;
  Lifeline lifeline;
  Star star;
  std::unique_ptr<AllReduce> on_gpu;
  bool has_ended = false;
};

Ranks::Ranks() = default;

Ranks::Ranks(const Launch& launch, at::Device device, double timeout) {
  check_can_reduce(device);
  if (launch.size > 1)
    members_ = std::make_unique<Members>(launch, device, meet(launch, timeout));
}

Ranks::~Ranks() = default;

int Ranks::rank() const {
  return members_ ? members_->launch.rank : 0;
}

int Ranks::size() const {
  return members_ ? members_->launch.size : 1;
}

uint32_t Ranks::agree(uint32_t flags) {
  return members_ ? members_->star.combine(flags) : flags;
}

void Ranks::average(const std::vector<Tensor>& tensors) {
  if (is_alone())
    return;
  const at::NoGradGuard no_grad;
  members_->all_reduce().sum(tensors);
  at::_foreach_div_(tensors, size());
}

std::string Ranks::broadcast(const std::string& text) {
  return members_ ? members_->star.broadcast(text) : text;
}

void Ranks::broadcast(const std::vector<Tensor>& tensors) {
  const at::NoGradGuard no_grad;
  for (const Tensor& tensor : tensors)
    if (members_)
      members_->star.broadcast(tensor);
}

Tensor Ranks::gather(const Tensor& rows) {
  if (is_alone())
    return rows;
  const std::vector<Tensor> all = members_->star.gather(rows);
  return is_first() ? at::cat(all) : rows;
}

void Ranks::end() {
  if (is_alone() || members_->has_ended)
    return;
  agree(0);
  members_->has_ended = true;
  members_->lifeline.goodbye();
}

void Ranks::fail(int exit_code, const std::string& message) {
  if (!is_alone() && !members_->has_ended)
    members_->lifeline.fail(exit_code, message);
}

}  // namespace stuffed::train
