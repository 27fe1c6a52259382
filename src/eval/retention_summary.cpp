#include "retention_summary.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>

namespace stuffed::eval {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

io::json number(double value) {
  return std::isfinite(value) ? io::json(value) : io::json();
}

double value(const io::json& number) {
  return number.is_null() ? kNaN : number.get<double>();
}

/// The upper median of finite numbers and infinities over the last axis.
Tensor upper_median(const Tensor& x) {
  return std::get<0>(x.sort(-1)).select(-1, x.size(-1) / 2);
}

/// Nested arrays of numbers, equal in shape: f(the values at one place) at every place.
io::json combine(const std::vector<io::json>& values,
                 const std::function<double(const std::vector<double>&)>& f) {
  if (!values[0].is_array()) {
    std::vector<double> plain;
    for (const io::json& one : values)
      plain.push_back(value(one));
    return number(f(plain));
  }
  io::json result = io::json::array();
  for (size_t i = 0; i < values[0].size(); ++i) {
    std::vector<io::json> inner;
    for (const io::json& one : values)
      inner.push_back(one.at(i));
    result.push_back(combine(inner, f));
  }
  return result;
}

double mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double one : values)
    sum += one;
  return sum / static_cast<double>(values.size());
}

/// Of the mean; NaN for a single value.
double standard_error(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  const double centre = mean(values);
  double squares = 0;
  for (const double one : values)
    squares += (one - centre) * (one - centre);
  return n > 1 ? std::sqrt(squares / (n - 1) / n) : kNaN;
}

io::json summarise_point(const std::vector<io::json>& records, size_t index) {
  io::json point = {{"read_tokens", records[0].at("points").at(index).at("read_tokens")},
                    {"suffix_tokens", records[0].at("points").at(index).at("suffix_tokens")}};
  const auto gather = [&](const char* field) {
    std::vector<io::json> values;
    for (const io::json& record : records)
      values.push_back(record.at("points").at(index).at(field));
    return values;
  };
  point["effrem"] = combine(gather("effrem"), mean);
  point["effrem_standard_error"] = combine(gather("effrem"), standard_error);
  point["surviving_weight_by_layer"] = combine(gather("surviving_weight_by_layer"), mean);
  return point;
}

}  // namespace

Tensor half_lives(const Tensor& lived, int64_t followed) {
  const Tensor median = upper_median(lived);
  const Tensor ended = (median < followed).logical_and(lived.amin(-1) >= 0);
  return at::where(ended, median.to(at::kFloat) + 1, at::full({}, kNaN, at::kFloat));
}

io::json half_life_json(const Tensor& half_life, int64_t starts, int64_t followed) {
  io::json by_layer = io::json::array();
  const Tensor sorted =
      std::get<0>(half_life.to(at::kDouble).nan_to_num(kInfinity).sort(-1));  // [L,H]
  for (int64_t layer = 0; layer < sorted.size(0); ++layer) {
    const Tensor heads = sorted[layer];
    const auto at = [&](int64_t i) { return number(heads[i].item<double>()); };
    by_layer.push_back({{"least_tokens", at(0)},
                        {"median_tokens", at(heads.numel() / 2)},
                        {"most_tokens", at(heads.numel() - 1)},
                        {"censored_heads", heads.isinf().sum().item<int64_t>()}});
  }
  return {{"starts", starts},
          {"followed_tokens", followed},
          {"heads", half_life.size(1)},
          {"by_layer", by_layer}};
}

io::json numbers(const Tensor& tensor) {
  if (tensor.dim() == 0)
    return number(tensor.item<double>());
  io::json values = io::json::array();
  for (int64_t i = 0; i < tensor.size(0); ++i)
    values.push_back(numbers(tensor[i]));
  return values;
}

Tensor median_half_life(const RetentionArrays& arrays, int64_t documents) {
  std::vector<Tensor> half_life;
  for (int64_t i = 0; i < documents; ++i)
    half_life.push_back(arrays.load(i).at("half_life_tokens").nan_to_num(kInfinity));
  const Tensor median = upper_median(at::stack(half_life, -1));
  return median.where(median.isfinite(), at::full({}, kNaN, at::kFloat));
}

io::json summarise_retention(const io::Results& results,
                             const Tensor& half_life,
                             int64_t documents,
                             const RetentionOptions& options) {
  std::vector<io::json> records;
  bool finite = true;
  for (int64_t i = 0; i < documents; ++i) {
    records.push_back(results.record(fmt::format("document={}", i)));
    finite = finite && records.back().at("finite") == true;
  }
  const io::json& first = records[0];
  io::json summary = options.run;
  summary["finite"] = finite;
  summary["transition"] = first.at("transition");
  for (size_t i = 0; i < first.at("points").size(); ++i)
    summary["points"].push_back(summarise_point(records, i));
  summary["half_life"] = half_life_json(half_life, first.at("half_life").at("starts"),
                                        first.at("half_life").at("followed_tokens"));
  return summary;
}

}  // namespace stuffed::eval
