#include "curves.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include <fmt/format.h>

namespace stuffed::report {

namespace {

constexpr uint16_t kMissing = 65535;
constexpr double kSteps = 65534;

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t there = std::min<size_t>(3, bytes.size() - i);
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (j < there ? static_cast<unsigned char>(bytes[i + j]) : 0u);
    for (size_t j = 0; j < 4; ++j)
      out.push_back(j <= there ? kDigits[group >> (18 - 6 * j) & 63] : '=');
  }
  return out;
}

/// Six digits, more than a screen shows.
io::json rounded(double value) {
  return std::isfinite(value) ? io::json(std::stod(fmt::format("{:.6g}", value))) : io::json();
}

/// Adds the places of the smallest and largest value in [begin, end), and of a gap.
void add_extremes(const std::vector<double>& values,
                  size_t begin,
                  size_t end,
                  std::set<size_t>& to) {
  size_t least = end, most = end, gap = end;
  for (size_t i = begin; i < end; ++i) {
    if (!std::isfinite(values[i])) {
      gap = gap == end ? i : gap;
      continue;
    }
    least = least == end || values[i] < values[least] ? i : least;
    most = most == end || values[i] > values[most] ? i : most;
  }
  for (const size_t place : {least, most, gap})
    if (place != end)
      to.insert(place);
}

}  // namespace

std::vector<size_t> thinned(const std::vector<double>& values, size_t bins) {
  const size_t n = values.size();
  if (n == 0)
    return {};
  std::set<size_t> kept = {0, n - 1};
  size_t begin = 0;
  for (size_t bin = 1; bin <= bins && begin < n; ++bin) {
    const double share = static_cast<double>(bin) / static_cast<double>(bins);
    const auto edge = static_cast<size_t>(std::llround(std::pow(static_cast<double>(n), share)));
    const size_t end = std::clamp(edge, begin + 1, n);
    add_extremes(values, begin, end, kept);
    begin = end;
  }
  add_extremes(values, begin, n, kept);
  return {kept.begin(), kept.end()};
}

std::vector<size_t> spaced(size_t n, size_t most) {
  std::set<size_t> kept;
  for (size_t i = 0; n > 0 && i < most; ++i) {
    const double share = most > 1 ? static_cast<double>(i) / static_cast<double>(most - 1) : 1.0;
    kept.insert(static_cast<size_t>(std::llround(std::pow(static_cast<double>(n), share))) - 1);
  }
  return {kept.begin(), kept.end()};
}

io::json array_of(const std::vector<double>& values) {
  io::json array = io::json::array();
  for (const double value : values)
    array.push_back(rounded(value));
  return array;
}

io::json array_of(const std::vector<double>& values, const std::vector<size_t>& which) {
  io::json array = io::json::array();
  for (const size_t i : which)
    array.push_back(rounded(values[i]));
  return array;
}

io::json packed(const std::vector<double>& values, bool log) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const double value : values)
    log = log && !(value <= 0);
  const auto scaled = [&](double value) { return log ? std::log10(value) : value; };
  for (const double value : values)
    if (std::isfinite(value)) {
      low = std::min(low, scaled(value));
      high = std::max(high, scaled(value));
    }
  std::string bytes;
  for (const double value : values) {
    const double q = high > low ? (scaled(value) - low) / (high - low) * kSteps : 0;
    const auto code = std::isfinite(value) ? static_cast<uint16_t>(std::lround(q)) : kMissing;
    bytes.push_back(static_cast<char>(code & 255));
    bytes.push_back(static_cast<char>(code >> 8));
  }
  return {{"low", io::number_or_null(low)},
          {"high", io::number_or_null(high)},
          {"log", log},
          {"data", base64(bytes)}};
}

}  // namespace stuffed::report
