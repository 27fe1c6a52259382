// Two results of one command side by side: how far apart they are, and how sure that is.
#pragma once
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "stuffed/io/json.h"

namespace stuffed::eval {

inline constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

/// One line of a comparison. A number that does not exist, or is not finite, is NaN.
struct ComparedValue {
  std::string metric;              // "nll_nats"
  std::string axis = {}, at = {};  // "position_tokens" and "1024"; both empty: over everything
  double a = kUnknown, b = kUnknown;
  double low = kUnknown, high = kUnknown;  // 95 % interval of the paired difference, b - a
  int64_t pairs = 0;                       // measurements that were paired: documents, trials
  std::string cell = {};                   // of a sweep

  double difference() const { return b - a; }
  /// Infinite if just one of the two is not finite, 0 if neither is.
  double distance() const;
};

/// Something that --fail-above can watch: what got worse from A to B, so that 0 is "the same".
struct MetricHelp {
  const char* name;
  const char* commands;  // whose results have it
  const char* unit;
  const char* meaning;
};
const std::vector<MetricHelp>& compare_metrics();

struct ResultComparison {
  std::string schema;
  std::vector<ComparedValue> rows;
  std::map<std::string, double> metrics;  // by name; infinite where B alone is not finite
  std::vector<std::string> settings;      // of the configs, that differ: "dtype: f32 | bf16"
  int64_t pairs = 0;
  std::string pairs_of;  // "documents", "trials", "records"
};

/// Compares the journal `b` with the journal `a`. Documents are paired by the hash of their tokens
/// (by number, where a journal is older than that), trials and other records by key.
/// Errors  Input if one is no finished journal, or if schema, tokens, or (unless `across_models`)
///         models differ, or numbers cannot be paired
ResultComparison compare_results(const std::filesystem::path& a,
                                 const std::filesystem::path& b,
                                 bool across_models);

}  // namespace stuffed::eval
