#include "losses.h"

#include <algorithm>

#include "html.h"
#include "src/eval/compare/intervals.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::report {

namespace {

Document read_document(const io::json& record, int64_t bucket) {
  eval::check_ppl_record(record, bucket);
  Document document{.name = record.value("name", ""),
                    .hash = record.value("tokens_sha256", ""),
                    .number = record.at("document"),
                    .targets = record.at("targets"),
                    .not_finite = record.at("not_finite_targets"),
                    .nll_sum = {},
                    .up_to = {0}};
  for (const io::json& sum : record.at("nll_sum_nats")) {
    document.nll_sum.push_back(number_of(sum));
    document.up_to.push_back(document.up_to.back() + document.nll_sum.back());
  }
  return document;
}

/// Of the values first to last. A difference of sums would lose digits, and everything behind a NaN.
double sum_of(const std::vector<double>& values,
              const std::vector<double>& up_to,
              size_t first,
              size_t last) {
  if (first == 0)
    return up_to[last + 1];
  double sum = 0;
  for (size_t i = first; i <= last; ++i)
    sum += values[i];
  return sum;
}

}  // namespace

Losses::Losses(const Run& run) : bucket_(io::read_integer(run.config, "bucket_tokens", 1)) {
  for (const io::json* record : run.all("document="))
    documents_.push_back(read_document(*record, bucket_));
  std::ranges::sort(documents_, {}, &Document::number);  // the order of the summary's sums
  for (const Document& document : documents_) {
    longest_ = std::max(longest_, document.targets);
    sums_.resize(std::max(sums_.size(), document.nll_sum.size()));
    targets_.resize(sums_.size());
    for (size_t b = 0; b < document.nll_sum.size(); ++b) {
      sums_[b] += document.nll_sum[b];
      targets_[b] += targets(document, b);
    }
  }
  up_to_ = {0};
  targets_up_to_ = {0};
  for (size_t b = 0; b < buckets(); ++b) {
    up_to_.push_back(up_to_.back() + sums_[b]);
    targets_up_to_.push_back(targets_up_to_.back() + targets_[b]);
  }
}

int64_t Losses::end(size_t b) const {
  return std::min((static_cast<int64_t>(b) + 1) * bucket_, longest_);
}

int64_t Losses::targets(const Document& document, size_t b) const {
  return std::clamp<int64_t>(document.targets - static_cast<int64_t>(b) * bucket_, 0, bucket_);
}

double Losses::mean(size_t first, size_t last) const {
  return sum_of(sums_, up_to_, first, last) /
         static_cast<double>(targets_up_to_[last + 1] - targets_up_to_[first]);
}

Estimate Losses::estimate(size_t first, size_t last) const {
  std::vector<double> sums, weights;
  for (const Document& document : documents_) {
    if (first >= document.nll_sum.size())
      continue;
    const size_t end = std::min(last + 1, document.nll_sum.size());
    sums.push_back(sum_of(document.nll_sum, document.up_to, first, end - 1));
    weights.push_back(
        static_cast<double>(std::min(document.targets, static_cast<int64_t>(end) * bucket_) -
                            static_cast<int64_t>(first) * bucket_));
  }
  const auto interval = eval::comparing::interval_of_ratio(sums, weights);
  return {.mean = mean(first, last), .low = interval.low, .high = interval.high};
}

size_t Losses::first_of_last(size_t b, int64_t tokens) const {
  const auto buckets = static_cast<size_t>((tokens + bucket_ - 1) / bucket_);
  return b + 1 > buckets ? b + 1 - buckets : 0;
}

}  // namespace stuffed::report
