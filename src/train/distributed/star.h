// Collective operations on CPU tensors over TCP: rank 0 in the middle, which adds up in the order of
// ranks, so that a sum has the same bits in every run.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "src/train/distributed/socket.h"
#include "stuffed/core/all_reduce.h"

namespace stuffed::train {

/// All functions are called by all ranks in the same order. Errors of all  kRankLost if a rank is gone;
/// Internal if ranks are at different operations
class Star : public AllReduce {
 public:
  /// `peers`: on rank 0 the connections to ranks 1, 2, ..., else the one to rank 0.
  Star(int rank, int size, std::vector<Socket> peers);

  void sum(const std::vector<Tensor>& tensors) override;
  /// Joined by "or".
  uint32_t combine(uint32_t flags);
  std::string broadcast(const std::string& text);
  void broadcast(const Tensor& tensor);
  /// On rank 0 the tensors of all ranks, its own first; none elsewhere. All are of one shape.
  std::vector<Tensor> gather(const Tensor& tensor);

 private:
  void send(size_t peer, uint32_t operation, const void* data, size_t bytes) const;
  void receive(size_t peer, uint32_t operation, void* data, size_t bytes) const;
  size_t size_of_next(size_t peer, uint32_t operation) const;
  [[noreturn]] void lost(size_t peer) const;
  void sum_bucket(const Tensor& bucket, const Tensor& other) const;

  int rank_, size_;
  std::vector<Socket> peers_;
};

/// What is said of a rank that is gone.
std::string lost_rank_text(int rank, int size);

}  // namespace stuffed::train
