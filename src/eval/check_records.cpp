#include "stuffed/eval/check_records.h"

#include <charconv>
#include <initializer_list>
#include <string>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

using io::json;

constexpr int64_t kMostTokens = int64_t{1} << 40;

int64_t integer(const json& record, const char* field, int64_t least, int64_t most) {
  const json& value = record.at(field);
  check(value.is_number_integer(), Error::Kind::Input, "{} is {}, expected an integer", field,
        value.type_name());
  const bool fits = !value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t(kMostTokens);
  const int64_t number = fits ? value.get<int64_t>() : most + 1;
  check(number >= least && number <= most, Error::Kind::Input, "{} is {}, expected {} to {}", field,
        value.dump(), least, most);
  return number;
}

/// Null stands for what is not finite.
void check_number(const json& value, const char* field) {
  check(value.is_number() || value.is_null(), Error::Kind::Input, "{} holds {}, expected numbers",
        field, value.type_name());
}

const json& array(const json& record, const char* field, size_t size) {
  const json& values = record.at(field);
  check(values.is_array() && values.size() == size, Error::Kind::Input,
        "{} has {} elements, expected {}", field, values.is_array() ? values.size() : 0, size);
  return values;
}

void check_numbers(const json& record, const char* field, size_t size) {
  for (const json& value : array(record, field, size))
    check_number(value, field);
}

/// Arrays of numbers, of arrays of numbers, and so on.
void check_nested_numbers(const json& value, const char* field) {
  if (!value.is_array())
    return check_number(value, field);
  for (const json& inner : value)
    check_nested_numbers(inner, field);
}

[[noreturn]] void unknown(const std::string& key) {
  fail(Error::Kind::Input, "'{}' is no key of it", key);
}

/// True for a document's record, whose key must be document=<its number>; false for the summary.
bool is_document(const json& record) {
  constexpr std::string_view kPrefix = "document=";
  const std::string key = record.at("key");
  if (key == "summary")
    return false;
  int64_t number = -1;
  const char* const end = key.data() + key.size();
  if (!key.starts_with(kPrefix) ||
      std::from_chars(key.data() + kPrefix.size(), end, number).ptr != end || number < 0)
    unknown(key);
  check(!record.contains("document") || record.at("document") == number, Error::Kind::Input,
        "document is {}", record.value("document", json()).dump());
  return true;
}

void check_finite(const json& record) {
  record.at("finite").get<bool>();
}

void check_ppl_summary(const json& summary) {
  const size_t buckets = summary.at("mean_nll_nats").size();
  integer(summary, "bucket_tokens", 1, kMostTokens);
  for (const char* field : {"mean_nll_nats", "standard_error_nats", "perplexity", "targets"})
    check_numbers(summary, field, buckets);
  if (summary.contains("bits_per_byte"))
    check_numbers(summary, "bits_per_byte", buckets);
}

}  // namespace

void check_ppl_record(const json& record, int64_t bucket_tokens) {
  if (!is_document(record)) {
    check_finite(record);
    return check_ppl_summary(record);
  }
  const int64_t targets = integer(record, "targets", 1, kMostTokens);
  const auto buckets = static_cast<size_t>((targets + bucket_tokens - 1) / bucket_tokens);
  check_numbers(record, "nll_sum_nats", buckets);
  if (record.contains("text_bytes"))
    for (const json& bytes : array(record, "text_bytes", buckets))
      check(bytes.is_number_unsigned(), Error::Kind::Input, "text_bytes holds {}", bytes.dump());
  integer(record, "not_finite_targets", 0, targets);
  check_finite(record);
}

void check_state_stats_record(const json& record) {
  check_finite(record);
  if (!is_document(record))
    return;
  const int64_t targets = integer(record, "targets", 1, kMostTokens);
  const int64_t stride = integer(record, "stride_tokens", 1, targets);
  integer(record, "samples", targets / stride, targets / stride);
}

void check_retention_record(const json& record) {
  check_finite(record);
  if (!is_document(record))
    return;
  integer(record, "targets", 1, kMostTokens);
  const json& life = record.at("half_life");
  integer(life, "starts", 1, kMostTokens);
  integer(life, "followed_tokens", 1, kMostTokens);
  record.at("transition").get<std::string>();
  check(!record.at("points").empty(), Error::Kind::Input, "points has no elements");
  for (const json& point : record.at("points")) {
    integer(point, "read_tokens", 1, kMostTokens);
    const size_t suffixes = point.at("suffix_tokens").size();
    check_numbers(point, "effrem", suffixes);
    check_nested_numbers(point.at("surviving_weight_by_layer"), "surviving_weight_by_layer");
  }
}

void check_passkey_record(const json& record, int64_t depths) {
  const std::string key = record.at("key");
  if (key == "summary")
    return;
  if (!key.starts_with("summary/len=")) {
    check(key.starts_with("len="), Error::Kind::Input, "'{}' is no key of it", key);
    record.at("correct").get<bool>();
    record.at("exact").get<bool>();
    return check_number(record.at("answer_nll_nats"), "answer_nll_nats");
  }
  const auto share = [](const json& of, const char* field) {
    const double value = of.at(field).get<double>();
    check(value >= 0 && value <= 1, Error::Kind::Input, "{} is {}, expected 0 to 1", field, value);
  };
  for (const char* field : {"accuracy", "low", "high"})
    share(record, field);
  for (const json& cell : array(record, "depths", static_cast<size_t>(depths)))
    if (!cell.is_null())
      share(cell, "accuracy");
}

}  // namespace stuffed::eval
