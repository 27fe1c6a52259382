#include "ppl_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

#include "src/eval/documents.h"
#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

/// One bucket over all documents. Means of documents are gathered by Welford's update.
struct Bucket {
  double sum = 0, mean = 0, squares = 0;
  int64_t targets = 0, bytes = 0, documents = 0;

  void add(double nll, int64_t count, int64_t text) {
    sum += nll;
    targets += count;
    bytes += text;
    const double value = nll / static_cast<double>(count), delta = value - mean;
    mean += delta / static_cast<double>(++documents);
    squares += delta * (value - mean);
  }
  /// NaN for a single document.
  double standard_error() const {
    const auto n = static_cast<double>(documents);
    return documents > 1 ? std::sqrt(squares / (n - 1) / n) : kNaN;
  }
};

std::vector<Bucket> gather(const io::Journal& journal,
                           int64_t bucket,
                           bool& has_text,
                           int64_t& longest) {
  std::vector<Bucket> buckets;
  for (const int64_t number : document_numbers(journal)) {
    const io::json record = document_record(journal, number);
    const int64_t targets = record.at("targets");
    longest = std::max(longest, targets);
    has_text = has_text && record.contains("text_bytes");
    const io::json& sums = record.at("nll_sum_nats");
    buckets.resize(std::max(buckets.size(), sums.size()));
    for (size_t b = 0; b < sums.size(); ++b) {
      const int64_t count = std::min(bucket, targets - static_cast<int64_t>(b) * bucket);
      buckets[b].add(sums[b].is_null() ? kNaN : sums[b].get<double>(), count,
                     has_text ? record.at("text_bytes").at(b).get<int64_t>() : 0);
    }
  }
  return buckets;
}

}  // namespace

io::json collapse_onset(const std::vector<double>& mean_nll_nats,
                        int64_t bucket,
                        int64_t length,
                        int64_t train_len) {
  check(bucket <= train_len / 4, Error::Kind::Usage,
        "--bucket {} is larger than a quarter of --train-len {}", bucket, train_len);
  double baseline = -std::numeric_limits<double>::infinity();
  io::json onset = length < 8 * train_len ? io::json("unknown") : io::json();
  bool baseline_finite = true;
  for (int64_t b = 0; (b + 1) * bucket <= std::min(train_len, length); ++b) {
    baseline = std::max(baseline, mean_nll_nats[static_cast<size_t>(b)]);
    baseline_finite = baseline_finite && std::isfinite(mean_nll_nats[static_cast<size_t>(b)]);
  }
  if (!baseline_finite || !std::isfinite(baseline))
    return {{"train_len_tokens", train_len},
            {"baseline_nll_nats", nullptr},
            {"onset_tokens", "unknown"}};
  for (int64_t b = (train_len + bucket - 1) / bucket; (b + 1) * bucket <= length; ++b)
    if (!(mean_nll_nats[static_cast<size_t>(b)] <= 2 * baseline)) {  // NaN exceeds, too
      onset = b * bucket;
      break;
    }
  return {
      {"train_len_tokens", train_len}, {"baseline_nll_nats", baseline}, {"onset_tokens", onset}};
}

io::json summarise(const io::Journal& journal, const PplByLengthOptions& options) {
  bool has_text = true;
  int64_t longest = 0;
  const std::vector<Bucket> buckets = gather(journal, options.bucket, has_text, longest);
  io::json summary = options.run;
  summary["bucket_tokens"] = options.bucket;
  summary["length_tokens"] = longest;
  std::vector<double> means;
  Bucket running;
  bool finite = true;
  for (const Bucket& bucket : buckets) {
    const double mean = bucket.sum / static_cast<double>(bucket.targets);
    running.sum += bucket.sum;
    running.targets += bucket.targets;
    finite = finite && std::isfinite(mean);
    means.push_back(mean);
    summary["targets"].push_back(bucket.targets);
    summary["mean_nll_nats"].push_back(io::number_or_null(mean));
    summary["standard_error_nats"].push_back(io::number_or_null(bucket.standard_error()));
    summary["perplexity"].push_back(io::number_or_null(std::exp(mean)));
    summary["running_mean_nll_nats"].push_back(
        io::number_or_null(running.sum / static_cast<double>(running.targets)));
    if (has_text)
      summary["bits_per_byte"].push_back(
          io::number_or_null(bucket.sum / std::numbers::ln2 / static_cast<double>(bucket.bytes)));
  }
  summary["finite"] = finite;
  if (options.train_len)
    summary["collapse"] = collapse_onset(means, options.bucket, longest, *options.train_len);
  return summary;
}

}  // namespace stuffed::eval
