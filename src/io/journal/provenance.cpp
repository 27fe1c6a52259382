#include "stuffed/io/provenance.h"

#include <ctime>
#include <fstream>
#include <random>

#include <ATen/Parallel.h>

#include "stuffed/core/cuda_library.h"
#include "stuffed/core/error.h"
#include "stuffed/core/version.h"

namespace stuffed::io {

namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name") && line.find(": ") != line.npos)
      return line.substr(line.find(": ") + 2);
  return "unknown";
}

std::string gpu_name(at::Device device) {
  const int index = std::max<int>(device.index(), 0);
  return cuda_library() ? cuda_library()->device_name(index) : "unknown";
}

/// 128 bits that no other run has. They tell files of two runs apart and decide no number.
std::string random_id() {
  std::random_device random;
  return fmt::format("{:08x}{:08x}{:08x}{:08x}", random(), random(), random(), random());
}

}  // namespace

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[sizeof "2026-11-24T00:31:07Z"];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

json provenance(const std::vector<std::string>& command_line, at::Device device) {
  const BuildInfo& build = build_info();
  return {
      {"commit", build.commit},
      {"dirty", build.dirty},
      {"version", build.version},
      {"libtorch", build.libtorch},
      {"cuda", build.cuda},
      {"command_line", command_line},
      {"device", device.str()},
      {"device_name", device.is_cuda() ? gpu_name(device) : cpu_name()},
      {"threads", at::get_num_threads()},
      {"started_utc", utc_now()},
      {"run_id", random_id()},
  };
}

}  // namespace stuffed::io
