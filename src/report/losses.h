// Losses by position of one run: what its documents say together, by the three definitions that
// people use.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "run.h"

namespace stuffed::report {

struct Document {
  std::string name, hash;  // hash: of its tokens; "" in older journals
  int64_t number = 0, targets = 0, not_finite = 0;
  std::vector<double> nll_sum;  // nats, by bucket; NaN if one of its losses is not finite
  std::vector<double> up_to;    // of the buckets before each, and before the end
};

struct Estimate {
  double mean, low, high;  // the 95 % interval over documents; NaN for a single one
};

class Losses {
 public:
  /// Of the documents that are measured.
  /// Errors  Input
  explicit Losses(const Run& run);

  int64_t bucket_tokens() const { return bucket_; }
  size_t buckets() const { return sums_.size(); }
  const std::vector<Document>& documents() const { return documents_; }
  /// Where bucket b ends: the tokens of the shortest prefix that holds it.
  int64_t end(size_t b) const;
  /// Nats per token over the targets of buckets first to last, over all documents that have some.
  double mean(size_t first, size_t last) const;
  /// The same, with Student's interval of the ratio of sums.
  Estimate estimate(size_t first, size_t last) const;
  /// The first of the buckets that hold the last `tokens` before the end of bucket b.
  size_t first_of_last(size_t b, int64_t tokens) const;
  /// Targets of one document in one bucket.
  int64_t targets(const Document& document, size_t b) const;

 private:
  int64_t bucket_, longest_ = 0;
  std::vector<Document> documents_;
  std::vector<double> sums_, up_to_;  // by bucket, over documents; of the buckets before each
  std::vector<int64_t> targets_, targets_up_to_;
};

}  // namespace stuffed::report
