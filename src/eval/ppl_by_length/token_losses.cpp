#include "token_losses.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <limits>
#include <numeric>
#include <unistd.h>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace fs = std::filesystem;

TokenLosses::~TokenLosses() {
  if (file_ >= 0)
    ::close(file_);
}

void TokenLosses::check_holds(int64_t floats) const {
  if (!sidecar_.exists())
    return;
  const auto wanted = static_cast<uintmax_t>(floats) * sizeof(float);
  std::error_code error;
  const uintmax_t bytes = fs::exists(part(), error) ? fs::file_size(part(), error) : 0;
  check(bytes >= wanted, Error::Kind::Input,
        "{}: holds {} bytes, but what the run measured so far needs {}; start anew with "
        "--overwrite",
        part().string(), bytes, wanted);
}

void TokenLosses::keep(int64_t floats, bool in_the_middle) {
  if (!sidecar_.exists())
    return;
  file_ = ::open(part().c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  check(file_ >= 0, Error::Kind::Output, "{}: cannot be written: {}", part().string(),
        std::strerror(errno));
  check_holds(floats);
  const auto bytes = floats * static_cast<int64_t>(sizeof(float));
  const bool is_sized = in_the_middle || ::ftruncate(file_, bytes) == 0;
  check(is_sized, Error::Kind::Output, "{}: cannot be written: {}", part().string(),
        std::strerror(errno));
}

void TokenLosses::write(std::span<const float> nll, int64_t place) const {
  if (!sidecar_.exists())
    return;
  const char* next = reinterpret_cast<const char*>(nll.data());
  int64_t at = place * static_cast<int64_t>(sizeof(float));
  for (size_t left = nll.size_bytes(); left > 0;) {
    const ssize_t n = ::pwrite(file_, next, left, at);
    check(n > 0 || (n < 0 && errno == EINTR), Error::Kind::Output, "{}: cannot be written: {}",
          part().string(), std::strerror(n == 0 ? ENOSPC : errno));
    const auto written = static_cast<size_t>(std::max<ssize_t>(n, 0));
    next += written;
    at += static_cast<int64_t>(written);
    left -= written;
  }
}

void TokenLosses::sync() const {
  if (!sidecar_.exists())
    return;
  const bool is_written = ::fdatasync(file_) == 0;
  check(is_written, Error::Kind::Output, "{}: cannot be written: {}", part().string(),
        std::strerror(errno));
}

void TokenLosses::finish(const std::vector<int64_t>& targets) const {
  if (!sidecar_.exists())
    return;
  const int64_t total = std::accumulate(targets.begin(), targets.end(), int64_t{0});
  const int64_t rows = static_cast<int64_t>(targets.size()),
                longest = *std::max_element(targets.begin(), targets.end());
  at::Tensor nll =
      at::from_file(part().string(), /*shared=*/false, total, at::kFloat);  // mapped, not read
  if (total != rows * longest) {
    const at::Tensor padded = at::full({rows, longest}, std::numeric_limits<float>::quiet_NaN());
    for (int64_t row = 0, begin = 0; row < rows; begin += targets[static_cast<size_t>(row++)])
      padded[row]
          .narrow(0, 0, targets[static_cast<size_t>(row)])
          .copy_(nll.narrow(0, begin, targets[static_cast<size_t>(row)]));
    nll = padded;
  }
  sidecar_.write({{"nll", nll.view({rows, longest})}},
                 {{"unit", "nats"}, {"column", "j scores token j+1"}});
}

}  // namespace stuffed::eval
