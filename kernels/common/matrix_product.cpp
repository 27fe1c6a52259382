// A library that shares one product among threads chooses by their number how it cuts the sums, MKL
// even in its reproducible modes (MKL_CBWR; 19 rows of 64, 4 threads, an EPYC without AVX-512). Here
// the sizes alone say what is cut, and each piece is one thread's; evaluating got faster by it, too.
#include "kernels/common/matrix_product.h"

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>

#include "stuffed/core/gradient.h"

// LibTorch exports this of the MKL that it holds, and declares it nowhere.
extern "C" __attribute__((weak)) int MKL_Set_Num_Threads_Local(int threads);

namespace stuffed::kernels {

namespace {

// Rows and columns of one thread's piece: few enough for a layer's product to give 16 threads some,
// enough for one thread to multiply at its full rate.
constexpr int64_t kRows = 128, kColumns = 512;
// Multiplications worth a thread: some 10 us of its work.
constexpr int64_t kGrain = 1 << 19;

/// This thread's products are its own work alone.
class OneThread {
 public:
  OneThread() : before_(MKL_Set_Num_Threads_Local ? MKL_Set_Num_Threads_Local(1) : 0) {}
  ~OneThread() {
    if (MKL_Set_Num_Threads_Local)
      MKL_Set_Num_Threads_Local(before_);
  }
  OneThread(const OneThread&) = delete;
  OneThread& operator=(const OneThread&) = delete;

 private:
  int before_;
};

int64_t pieces_of(int64_t size, int64_t piece) {
  return (size + piece - 1) / piece;
}

bool takes(const Tensor& a, const Tensor& b) {
  return a.is_cpu() && b.is_cpu() && a.scalar_type() == b.scalar_type() &&
         (a.scalar_type() == at::kFloat || a.scalar_type() == at::kDouble) && !wants_gradient(a) &&
         !wants_gradient(b) && a.dim() >= 2 && b.dim() >= 2 && a.numel() > 0 && b.numel() > 0;
}

/// a [m,k] b [k,n]
void multiply(const Tensor& a, const Tensor& b, const Tensor& y) {
  const int64_t m = a.size(0), n = b.size(1), columns = pieces_of(n, kColumns);
  const int64_t work = std::min(m, kRows) * a.size(1) * std::min(n, kColumns);
  const auto piece = [&](int64_t i) {
    const int64_t row = i / columns * kRows, column = i % columns * kColumns;
    const int64_t height = std::min(kRows, m - row), width = std::min(kColumns, n - column);
    Tensor out = y.narrow(0, row, height).narrow(1, column, width);
    at::mm_out(out, a.narrow(0, row, height), b.narrow(1, column, width));
  };
  at::parallel_for(0, pieces_of(m, kRows) * columns, std::max<int64_t>(1, kGrain / work),
                   [&](int64_t begin, int64_t end) {
                     const OneThread only;
                     for (int64_t i = begin; i < end; ++i)
                       piece(i);
                   });
}

/// a [N,m,k] b [N,k,n]
void multiply_each(const Tensor& a, const Tensor& b, const Tensor& y) {
  const int64_t each = a.size(1) * a.size(2) * b.size(2),
                count = std::max<int64_t>(1, kGrain / each);
  at::parallel_for(0, pieces_of(a.size(0), count), 1, [&](int64_t begin, int64_t end) {
    const OneThread only;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * count, many = std::min(count, a.size(0) - first);
      Tensor out = y.narrow(0, first, many);
      at::bmm_out(out, a.narrow(0, first, many), b.narrow(0, first, many));
    }
  });
}

}  // namespace

Tensor matrix_product(const Tensor& left, const Tensor& right) {
  if (!takes(left, right))
    return at::matmul(left, right);
  // Other threads do not know that this one wants no gradient.
  const Tensor a = left.detach(), b = right.detach();
  const int64_t m = a.size(-2), k = a.size(-1), n = b.size(-1);
  if (b.dim() == 2) {
    std::vector<int64_t> shape = a.sizes().vec();
    shape.back() = n;
    Tensor y = at::empty(shape, a.options());
    multiply(a.reshape({-1, k}), b, y.view({-1, n}));
    return y;
  }
  std::vector<int64_t> shape =
      at::infer_size(a.sizes().slice(0, a.dim() - 2), b.sizes().slice(0, b.dim() - 2));
  const auto batch = [&](const Tensor& x) {
    std::vector<int64_t> sizes = shape;
    sizes.insert(sizes.end(), {x.size(-2), x.size(-1)});
    return x.expand(sizes).reshape({-1, x.size(-2), x.size(-1)});
  };
  const Tensor x = batch(a), z = batch(b);
  Tensor y = at::empty({x.size(0), m, n}, a.options());
  if (m > kRows || n > kColumns)
    for (int64_t i = 0; i < x.size(0); ++i)
      multiply(x[i], z[i], y[i]);
  else
    multiply_each(x, z, y);
  shape.insert(shape.end(), {m, n});
  return y.view(shape);
}

}  // namespace stuffed::kernels
