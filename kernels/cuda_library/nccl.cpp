#if STUFFED_WITH_NCCL
#define USE_C10D_NCCL  // without which its header is empty
#include "kernels/cuda_library/nccl.h"

#include <exception>

#include <c10/cuda/CUDAGuard.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

namespace stuffed {

namespace {

class NcclAllReduce : public AllReduce {
 public:
  NcclAllReduce(const c10::intrusive_ptr<c10d::Store>& store, int rank, int size, int index)
      : index_(static_cast<c10::DeviceIndex>(index)),
        group_(c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size)) {}
  /// Where something went wrong, sums that are under way may never end.
  ~NcclAllReduce() override {
    if (std::uncaught_exceptions() > 0)
      group_->abort();
    else
      group_->shutdown();
  }

  /// Queued on the current stream; nothing waits.
  void sum(const std::vector<Tensor>& tensors) override {
    const c10::cuda::CUDAGuard guard(index_);
    std::vector<Tensor> all = tensors;
    group_->allreduce_coalesced(all)->wait();
  }

 private:
  c10::DeviceIndex index_;
  c10::intrusive_ptr<c10d::ProcessGroupNCCL> group_;
};

}  // namespace

std::unique_ptr<AllReduce> nccl_all_reduce(const c10::intrusive_ptr<c10d::Store>& store,
                                           int rank,
                                           int size,
                                           int index) {
  return std::make_unique<NcclAllReduce>(store, rank, size, index);
}

}  // namespace stuffed
#endif
