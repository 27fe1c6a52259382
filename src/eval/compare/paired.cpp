#include "src/eval/compare/paired.h"

#include <cmath>

#include "src/eval/compare/intervals.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval::comparing {

DocumentName document_name(const io::json& record) {
  return {.number = document_number(record),
          .targets = io::read_integer(record, "targets", 1, io::kMostTokens),
          .hash = record.contains("tokens_sha256") ? io::read_text(record, "tokens_sha256") : "",
          .name = record.contains("name") ? io::read_text(record, "name") : ""};
}

namespace {

bool all_hashed(const std::vector<DocumentName>& names) {
  for (const DocumentName& name : names)
    if (name.hash.empty())
      return false;
  return true;
}

/// Journals that do not say what their tokens are can be paired where their inputs are the same.
void check_same_data(const Side& a, const Side& b) {
  check(a.config.contains("data") && a.config.at("data") == b.config.value("data", io::json()),
        Error::Kind::Input,
        "{} and {}: read different data, and one of them is too old to say which documents are "
        "equal; run it again",
        a.path.string(), b.path.string());
}

}  // namespace

std::vector<size_t> pair_documents(const Side& a,
                                   const std::vector<DocumentName>& of_a,
                                   const Side& b,
                                   const std::vector<DocumentName>& of_b) {
  const bool by_hash = all_hashed(of_a) && all_hashed(of_b);
  if (!by_hash)
    check_same_data(a, b);
  const auto key = [&](const DocumentName& name) {
    return by_hash ? name.hash : fmt::format("{}/{}", name.number, name.targets);
  };
  std::multimap<std::string, size_t> waiting;
  for (size_t i = 0; i < of_b.size(); ++i)
    waiting.emplace(key(of_b[i]), i);
  const auto differ = [&](const Side& with, const DocumentName& name, const Side& without) {
    fail(Error::Kind::Input,
         "{}: no document has the tokens of document={} of {} ({}, {} targets); both runs must "
         "have read the same documents",
         without.path.string(), name.number, with.path.string(), name.name, name.targets);
  };
  std::vector<size_t> pairs;
  for (const DocumentName& name : of_a) {
    const auto found = waiting.lower_bound(key(name));
    if (found == waiting.end() || found->first != key(name))
      differ(a, name, b);
    pairs.push_back(found->second);
    waiting.erase(found);
  }
  if (!waiting.empty())
    differ(b, of_b[waiting.begin()->second], a);
  return pairs;
}

ComparedValue row_of_means(const std::string& metric,
                           const std::vector<double>& a,
                           const std::vector<double>& b) {
  ComparedValue row{.metric = metric, .a = 0, .b = 0, .pairs = std::ssize(a)};
  std::vector<double> differences;
  for (size_t i = 0; i < a.size(); ++i) {
    row.a += a[i] / static_cast<double>(a.size());
    row.b += b[i] / static_cast<double>(a.size());
    differences.push_back(b[i] - a[i]);
  }
  const Interval95 interval = interval_of_mean(differences);
  row.low = interval.low;
  row.high = interval.high;
  return row;
}

void add_mean_loss(const ComparedValue& row, ResultComparison& out) {
  raise_metric(out, "nll_mean", growth(row.a, row.b));
  raise_metric(out, "nll_mean_relative", growth(row.a, row.b) / std::max(std::abs(row.a), 1e-300));
  if (std::isfinite(row.low) || !std::isfinite(row.b))
    raise_metric(out, "nll_mean_low",
                 growth(row.a, std::isfinite(row.b) ? row.a + row.low : row.b));
}

}  // namespace stuffed::eval::comparing
