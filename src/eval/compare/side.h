// What the comparisons of the several schemas share.
#pragma once
#include <functional>
#include <set>
#include <string>
#include <utility>

#include "stuffed/eval/compare.h"
#include "stuffed/io/journal.h"

namespace stuffed::eval::comparing {

/// A journal that is read, or the part of a sweep's that is one cell.
struct Side {
  std::filesystem::path path;
  io::json config, provenance;
  std::string schema;
  /// Hands over each record.
  /// Errors  Input, naming the journal and the record, for what `on_record` throws
  std::function<void(const std::function<void(const io::json& record)>& on_record)> each;
};

using Compare = void (*)(const Side& a, const Side& b, ResultComparison& out);

void compare_ppl(const Side& a, const Side& b, ResultComparison& out);
void compare_state_stats(const Side& a, const Side& b, ResultComparison& out);
void compare_retention(const Side& a, const Side& b, ResultComparison& out);
void compare_passkey(const Side& a, const Side& b, ResultComparison& out);
void compare_retrieval(const Side& a, const Side& b, ResultComparison& out);
void compare_train(const Side& a, const Side& b, ResultComparison& out);
void compare_verify(const Side& a, const Side& b, ResultComparison& out);
void compare_bench(const Side& a, const Side& b, ResultComparison& out);

/// Errors  Input, naming both sides, unless the fields of the configs are equal
void check_same(const Side& a, const Side& b, const char* field, const char* what);

/// A number, or NaN for null.
double number_or_nan(const io::json& value);
/// Likewise of a field that may be absent.
double number_in(const io::json& object, const char* field);

/// b - a: how much a number grew. Infinite if B alone is not finite; 0 if A is not.
double growth(double a, double b);
/// Keeps the largest: of a metric that is the worst of several values.
void raise_metric(ResultComparison& out, const char* name, double value);

}  // namespace stuffed::eval::comparing
