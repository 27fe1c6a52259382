#include "token_losses.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <numeric>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::eval {

namespace fs = std::filesystem;

fs::path TokenLosses::partial() const {
  return fs::path(path_).concat(".partial");
}

void TokenLosses::check_holds(int64_t floats) const {
  if (path_.empty())
    return;
  const auto wanted = static_cast<uintmax_t>(floats) * sizeof(float);
  std::error_code error;
  const uintmax_t bytes = fs::exists(partial()) ? fs::file_size(partial(), error) : 0;
  check(bytes >= wanted, Error::Kind::Input,
        "{}: holds {} bytes, but what the run measured so far needs {}; start anew with "
        "--overwrite",
        partial().string(), bytes, wanted);
}

void TokenLosses::keep(int64_t floats, bool in_the_middle) const {
  if (path_.empty())
    return;
  std::error_code error;
  if (!fs::exists(partial()))
    std::ofstream(partial(), std::ios::binary | std::ios::app).close();
  check(fs::exists(partial()), Error::Kind::Output, "{}: cannot be written", partial().string());
  check_holds(floats);
  if (!in_the_middle)
    fs::resize_file(partial(), static_cast<uintmax_t>(floats) * sizeof(float), error);
  check(!error, Error::Kind::Output, "{}: {}", partial().string(), error.message());
}

void TokenLosses::write(std::span<const float> nll, int64_t place) const {
  if (path_.empty())
    return;
  std::fstream file(partial(), std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(place * static_cast<int64_t>(sizeof(float)));
  file.write(reinterpret_cast<const char*>(nll.data()),
             static_cast<std::streamsize>(nll.size_bytes()));
  file.close();
  check(!file.fail(), Error::Kind::Output, "{}: cannot be written whole; is the disk full?",
        partial().string());
}

void TokenLosses::finish(const std::vector<int64_t>& targets) const {
  if (path_.empty())
    return;
  const int64_t total = std::accumulate(targets.begin(), targets.end(), int64_t{0});
  const int64_t rows = static_cast<int64_t>(targets.size()),
                longest = *std::max_element(targets.begin(), targets.end());
  at::Tensor nll =
      at::from_file(partial().string(), /*shared=*/false, total, at::kFloat);  // mapped, not read
  if (total != rows * longest) {
    const at::Tensor padded = at::full({rows, longest}, std::numeric_limits<float>::quiet_NaN());
    for (int64_t row = 0, begin = 0; row < rows; begin += targets[static_cast<size_t>(row++)])
      padded[row]
          .narrow(0, 0, targets[static_cast<size_t>(row)])
          .copy_(nll.narrow(0, begin, targets[static_cast<size_t>(row)]));
    nll = padded;
  }
  io::write_safetensors(path_, {{"nll", nll.view({rows, longest})}},
                        {{"unit", "nats"}, {"column", "j scores token j+1"}});
}

void TokenLosses::remove_partial() const {
  std::error_code ignored;
  if (!path_.empty())
    fs::remove(partial(), ignored);
}

}  // namespace stuffed::eval
