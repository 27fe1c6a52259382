// Losses by position of the same documents.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>

#include "src/eval/compare/intervals.h"
#include "src/eval/compare/paired.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval::comparing {

namespace {

struct Losses {
  DocumentName name;
  std::vector<double> nll_sum;  // by bucket; NaN if one of its losses is not finite
  double bytes = 0;             // of the text, 0 if that is not known
  int64_t not_finite = 0;

  double total() const {
    double sum = 0;
    for (const double nll : nll_sum)
      sum += nll;
    return sum;
  }
};

Losses read_losses(const Side& side, const io::json& record) {
  check_ppl_record(record, io::read_integer(side.config, "bucket_tokens", 1, io::kMostTokens));
  Losses losses{.name = document_name(record), .nll_sum = {}};
  for (const io::json& sum : record.at("nll_sum_nats"))
    losses.nll_sum.push_back(number_or_nan(sum));
  for (const io::json& bytes : record.value("text_bytes", io::json::array()))
    losses.bytes += bytes.get<double>();
  losses.not_finite = io::read_integer(record, "not_finite_targets", 0, io::kMostTokens);
  return losses;
}

/// Means over the targets of one bucket, or of all.
struct Sums {
  std::vector<double> differences, targets;
  double a = 0, b = 0, weight = 0;

  void add(double nll_a, double nll_b, double count) {
    differences.push_back(nll_b - nll_a);
    targets.push_back(count);
    a += nll_a;
    b += nll_b;
    weight += count;
  }
  ComparedValue row(const std::string& metric) const {
    const Interval95 interval = interval_of_ratio(differences, targets);
    return {.metric = metric,
            .a = a / weight,
            .b = b / weight,
            .low = interval.low,
            .high = interval.high,
            .pairs = std::ssize(targets)};
  }
};

std::vector<Sums> by_bucket(const Pairs<Losses>& pairs, int64_t bucket_tokens) {
  std::vector<Sums> buckets;
  for (const auto& [a, b] : pairs) {
    buckets.resize(std::max(buckets.size(), a.nll_sum.size()));
    for (size_t i = 0; i < a.nll_sum.size(); ++i)
      buckets[i].add(a.nll_sum[i], b.nll_sum[i],
                     static_cast<double>(std::min(
                         bucket_tokens, a.name.targets - static_cast<int64_t>(i) * bucket_tokens)));
  }
  return buckets;
}

/// Of one document the buckets stand for the documents that there are not.
ComparedValue mean_row(const Pairs<Losses>& pairs, const std::vector<Sums>& buckets) {
  Sums all;
  for (const auto& [a, b] : pairs)
    all.add(a.total(), b.total(), static_cast<double>(a.name.targets));
  ComparedValue row = all.row("nll_nats");
  if (pairs.size() > 1)
    return row;
  Sums parts;
  for (const Sums& bucket : buckets)
    parts.add(bucket.a, bucket.b, bucket.weight);
  const ComparedValue by_parts = parts.row("nll_nats");
  row.low = by_parts.low;
  row.high = by_parts.high;
  return row;
}

/// Where the loss collapses; infinite if it does not, NaN if that is not known.
double onset_of(const io::json& summary) {
  const io::json onset = summary.contains("collapse") ? summary.at("collapse").at("onset_tokens")
                                                      : io::json("unknown");
  return onset.is_null()     ? std::numeric_limits<double>::infinity()
         : onset.is_number() ? onset.get<double>()
                             : kUnknown;
}

void add_onset(const io::json& a, const io::json& b, ResultComparison& out) {
  const double of_a = onset_of(a), of_b = onset_of(b);
  if (std::isnan(of_a) || std::isnan(of_b))
    return;
  const double longest = number_in(a, "length_tokens");
  const double drop = std::min(of_a, longest) - std::min(of_b, longest);
  raise_metric(out, "collapse_onset_drop", drop);
  out.rows.push_back({.metric = "collapse_onset_tokens", .a = of_a, .b = of_b});
}

void add_bits(const Pairs<Losses>& pairs, ResultComparison& out) {
  Sums bits;
  for (const auto& [a, b] : pairs) {
    if (a.bytes <= 0 || a.bytes != b.bytes)
      return;
    bits.add(a.total() / std::numbers::ln2, b.total() / std::numbers::ln2, a.bytes);
  }
  out.rows.push_back(bits.row("bits_per_byte"));
  raise_metric(out, "bits_per_byte", growth(out.rows.back().a, out.rows.back().b));
}

}  // namespace

void compare_ppl(const Side& a, const Side& b, ResultComparison& out) {
  check_same(a, b, "bucket_tokens", "their buckets are of different sizes, and cannot be paired");
  io::json summaries[2];
  const Pairs<Losses> pairs = read_pairs<Losses>(
      a, b, read_losses, [&](int side, const io::json& record) { summaries[side] = record; });
  out.pairs = std::ssize(pairs);
  out.pairs_of = "documents";
  const int64_t bucket_tokens = a.config.at("bucket_tokens");
  const std::vector<Sums> buckets = by_bucket(pairs, bucket_tokens);
  out.rows.push_back(mean_row(pairs, buckets));
  add_mean_loss(out.rows.back(), out);
  add_bits(pairs, out);
  add_onset(summaries[0], summaries[1], out);
  for (size_t i = 0; i < buckets.size(); ++i) {
    ComparedValue row = buckets[i].row("nll_nats");
    row.axis = "position_tokens";
    row.at = fmt::format("{}", static_cast<int64_t>(i) * bucket_tokens);
    raise_metric(out, "nll_bucket_max", growth(row.a, row.b));
    out.rows.push_back(std::move(row));
  }
  double not_finite = 0;
  for (const auto& [of_a, of_b] : pairs)
    not_finite += static_cast<double>(of_b.not_finite - of_a.not_finite);
  raise_metric(out, "not_finite", not_finite);
}

}  // namespace stuffed::eval::comparing
