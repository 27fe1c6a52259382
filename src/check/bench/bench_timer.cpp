#include "bench_timer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <sstream>

#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>

#include "kernels/common/matrix_product.h"
#include "stuffed/check/matmul_speed.h"
#include "stuffed/core/cuda_library.h"
#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

/// Larger than the last cache: 50 MB on an H100; a core's share of a server's.
constexpr int64_t kGpuFlushBytes = int64_t{256} << 20, kCpuFlushBytes = int64_t{64} << 20;

double time_on_gpu(const std::function<void()>& prepare, const std::function<void()>& body) {
  double seconds = 0;
  const int error = cuda_library()->time(prepare, body, &seconds);
  check(error == 0, Error::Kind::Internal, "bench: CUDA reports {}",
        cuda_library()->error_text(error));
  return seconds;
}

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \n"), last = text.find_last_not_of(" \n");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

double time_on_cpu(const std::function<void()>& prepare, const std::function<void()>& body) {
  prepare();
  const auto begin = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

double Timing::quantile(double q) const {
  check(!seconds.empty(), Error::Kind::Internal, "a timing without repeats");
  const double at = q * static_cast<double>(seconds.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, seconds.size() - 1);
  return std::lerp(seconds[below], seconds[above], at - static_cast<double>(below));
}

Timing time_runs(at::Device device,
                 const TimingOptions& options,
                 const std::function<void()>& body) {
  at::Tensor buffer;
  if (options.flush)
    buffer = at::empty({device.is_cuda() ? kGpuFlushBytes : kCpuFlushBytes},
                       at::TensorOptions(device).dtype(at::kByte));
  const auto prepare = [&] {
    if (options.prepare)
      options.prepare();
    if (options.flush)
      buffer.fill_(1);
  };
  for (int64_t i = 0; i < options.warmup; ++i) {
    prepare();
    body();
  }
  Timing timing;
  for (int64_t i = 0; i < options.repeats; ++i) {
    const c10::OptionalDeviceGuard guard(device);
    timing.seconds.push_back(device.is_cuda() ? time_on_gpu(prepare, body)
                                              : time_on_cpu(prepare, body));
  }
  std::ranges::sort(timing.seconds);
  return timing;
}

double matmul_speed(at::Device device, at::ScalarType dtype) {
  const bool on_gpu = device.is_cuda();
  const TimingOptions how{.warmup = on_gpu ? 3 : 1, .repeats = on_gpu ? 10 : 3};
  const auto options = at::TensorOptions(device).dtype(dtype);
  const int64_t n = on_gpu ? 8192 : 1024;
  const at::Tensor a = at::rand({n, n}, options), b = at::rand({n, n}, options);
  const double product = time_runs(device, how, [&] { kernels::matrix_product(a, b); }).median();
  return 2 * std::pow(static_cast<double>(n), 3) / product;
}

Ceilings measure_ceilings(at::Device device, at::ScalarType dtype) {
  const bool on_gpu = device.is_cuda();
  const TimingOptions how{.warmup = on_gpu ? 3 : 1, .repeats = on_gpu ? 10 : 3};
  const int64_t bytes = on_gpu ? int64_t{2} << 30 : int64_t{256} << 20;
  const at::Tensor from = at::ones({bytes}, at::TensorOptions(device).dtype(at::kByte)),
                   to = at::empty_like(from);
  const double copy = time_runs(device, how, [&] { to.copy_(from); }).median();
  return {.copy_bytes_per_s = 2 * static_cast<double>(bytes) / copy,
          .matmul_flops_per_s = matmul_speed(device, dtype)};
}

io::json read_clocks(at::Device device) {
  const std::string bus = device.is_cuda() && cuda_library()
                              ? cuda_library()->bus_id(std::max<int>(device.index(), 0))
                              : "";
  if (bus.empty())
    return nullptr;
  const std::string command = fmt::format(
      "nvidia-smi -i {} --query-gpu=clocks.sm,clocks.mem,power.limit,driver_version,name "
      "--format=csv,noheader,nounits 2>/dev/null",
      bus);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  char line[512] = {};
  if (!pipe || std::fgets(line, sizeof line, pipe.get()) == nullptr)
    return nullptr;
  std::istringstream fields(line);
  io::json clocks;
  for (const char* name : {"sm_mhz", "memory_mhz", "power_limit_w", "driver", "name"}) {
    std::string field;
    std::getline(fields, field, ',');
    field = trimmed(field);
    char* end = nullptr;
    const double number = std::strtod(field.c_str(), &end);
    clocks[name] = !field.empty() && *end == '\0' ? io::json(number) : io::json(field);
  }
  return clocks;
}

void reset_peak_memory(at::Device device) {
  if (device.is_cuda() && cuda_library()) {
    cuda_library()->reset_peak_memory(std::max<int>(device.index(), 0));
    return;
  }
  std::ofstream("/proc/self/clear_refs") << "5";  // best effort: else the peak is the process's
}

int64_t peak_memory_bytes(at::Device device) {
  if (device.is_cuda() && cuda_library())
    return cuda_library()->peak_memory(std::max<int>(device.index(), 0));
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:"))
      return std::stoll(line.substr(6)) * 1024;
  return 0;
}

}  // namespace stuffed::eval
