// Sums over the GPUs of a distributed run.
#pragma once
#include <memory>

#include <c10/util/intrusive_ptr.h>

#include "stuffed/core/all_reduce.h"

namespace c10d {
class Store;
}

namespace stuffed {

/// By NCCL, through c10d, on the GPU of that index; the ranks find one another in the store.
std::unique_ptr<AllReduce> nccl_all_reduce(const c10::intrusive_ptr<c10d::Store>& store,
                                           int rank,
                                           int size,
                                           int index);

}  // namespace stuffed
