// Losses on the CPU in one pass over the logits.
#include <vector>

#include <ATen/ATen.h>

#include "kernels/common/cpu_rows.h"
#include "kernels/common/rows.h"
#include "kernels/nll/nll.h"

namespace stuffed::kernels {

bool nll_fast_takes(const NllInputs& in) {
  return takes_cpu_rows({in.logits});
}

Tensor nll_fast(const NllInputs& in) {
  const Tensor nll = at::empty({in.logits.size(0)}, at::kFloat);
  const auto target = in.targets.accessor<int64_t, 1>();
  with_type(in.logits, [&]<class T>(T*) {
    at::parallel_for(
        0, in.logits.size(0), rows_per_thread(in.vocab), [&](int64_t begin, int64_t end) {
          std::vector<float> row(static_cast<size_t>(in.vocab));
          for (int64_t i = begin; i < end; ++i) {
            load_row(in.logits.const_data_ptr<T>() + i * in.logits.stride(0), row.data(), in.vocab);
            nll.mutable_data_ptr<float>()[i] =
                log_sum_exp_row(row.data(), in.vocab) - row[static_cast<size_t>(target[i])];
          }
        });
  });
  return nll;
}

}  // namespace stuffed::kernels
