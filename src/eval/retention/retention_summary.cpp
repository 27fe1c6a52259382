#include "retention_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/ATen.h>

#include "src/eval/documents.h"

namespace stuffed::eval {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

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
    return io::number_or_null(f(plain));
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
  for (const char* field : {"surviving_weight_by_layer", "mitigated_surviving_weight_by_layer"})
    if (std::ranges::all_of(records, [&](const io::json& record) {
          return record.at("points").at(index).contains(field);
        }))
      point[field] = combine(gather(field), mean);
  return point;
}

/// Means over the documents of {"mean_by_layer","geometric_by_layer"}; null if one has none.
io::json summarise_alpha(const std::vector<io::json>& records, const std::string& field) {
  io::json alpha;
  for (const char* which : {"mean_by_layer", "geometric_by_layer"}) {
    std::vector<io::json> values;
    for (const io::json& record : records) {
      if (!record.contains(field))
        return nullptr;
      values.push_back(record.at(field).at(which));
    }
    alpha[which] = combine(values, mean);
  }
  return alpha;
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
    const auto at = [&](int64_t i) { return io::number_or_null(heads[i].item<double>()); };
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
    return io::number_or_null(tensor.item<double>());
  io::json values = io::json::array();
  for (int64_t i = 0; i < tensor.size(0); ++i)
    values.push_back(numbers(tensor[i]));
  return values;
}

Tensor median_half_life(const RetentionArrays& arrays, int64_t documents, const std::string& name) {
  std::vector<Tensor> half_life;
  for (int64_t i = 0; i < documents; ++i) {
    const RetentionArrays::Named of_document = arrays.load(i);
    if (!of_document.contains(name))
      return {};
    half_life.push_back(of_document.at(name).nan_to_num(kInfinity));
  }
  const Tensor median = upper_median(at::stack(half_life, -1));
  return median.where(median.isfinite(), at::full({}, kNaN, at::kFloat));
}

io::json summarise_retention(const io::Journal& journal,
                             const RetentionArrays::Named& medians,
                             const RetentionOptions& options) {
  std::vector<io::json> records;
  bool finite = true;
  for (const int64_t number : document_numbers(journal)) {
    records.push_back(document_record(journal, number));
    finite = finite && records.back().at("finite") == true;
  }
  const io::json& first = records[0];
  io::json summary = options.run;
  summary["finite"] = finite;
  summary["transition"] = first.at("transition");
  for (size_t i = 0; i < first.at("points").size(); ++i)
    summary["points"].push_back(summarise_point(records, i));
  for (const auto& [field, array] : {std::pair{"half_life", "half_life_tokens/median"},
                                     {"mitigated_half_life", "mitigated/half_life_tokens/median"}})
    if (const auto median = medians.find(array); median != medians.end())
      summary[field] = half_life_json(median->second, first.at("half_life").at("starts"),
                                      first.at("half_life").at("followed_tokens"));
  for (const char* field : {"alpha", "mitigated_alpha"})
    if (io::json alpha = summarise_alpha(records, field); !alpha.is_null())
      summary[field] = std::move(alpha);
  return summary;
}

}  // namespace stuffed::eval
