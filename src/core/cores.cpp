#include "stuffed/core/cores.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <optional>
#include <sched.h>
#include <string>
#include <thread>

namespace stuffed {

namespace {

int64_t allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    return CPU_COUNT(&set);
  return std::max<int64_t>(1, std::thread::hardware_concurrency());  // more than the set can hold
}

std::string word_in(const std::string& path) {
  std::ifstream file(path);
  std::string word;
  file >> word;
  return word;
}

std::optional<double> quotient(const std::string& quota, const std::string& period) {
  char *quota_end = nullptr, *period_end = nullptr;
  const double of = std::strtod(quota.c_str(), &quota_end),
               per = std::strtod(period.c_str(), &period_end);
  if (quota.empty() || period.empty() || *quota_end != '\0' || *period_end != '\0' || of <= 0 ||
      per <= 0)
    return {};  // "max", -1, or nothing there
  return of / per;
}

/// Processors' worth of time that the control group has, by its second or first version.
std::optional<double> quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  std::string of, per;
  if (file >> of >> per)
    return quotient(of, per);
  const std::string folder = "/sys/fs/cgroup/cpu/";
  return quotient(word_in(folder + "cpu.cfs_quota_us"), word_in(folder + "cpu.cfs_period_us"));
}

}  // namespace

int64_t usable_cores() {
  const int64_t allowed = allowed_cores();
  const std::optional<double> limit = quota();
  return limit ? std::clamp<int64_t>(std::llround(std::ceil(*limit)), 1, allowed) : allowed;
}

}  // namespace stuffed
