#include "stuffed/eval/check_records.h"

#include <charconv>
#include <initializer_list>
#include <string>

#include "stuffed/core/error.h"
#include "stuffed/eval/passkey.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval {

namespace {

using io::json, io::kMostTokens, io::read_integer;

[[noreturn]] void unknown(const std::string& key) {
  fail(Error::Kind::Input, "'{}' is no key of it", key);
}

bool is_document(const json& record) {
  return document_number(record) >= 0;
}

void check_bad_lines(const json& summary) {
  if (!summary.contains("bad_lines"))
    return;
  const json& bad = summary.at("bad_lines");
  read_integer(bad, "count");
  check(bad.at("lines").is_array(), Error::Kind::Input, "bad_lines has no list of lines");
  for (const json& line : bad.at("lines"))
    check(line.is_number_unsigned(), Error::Kind::Input, "bad_lines holds {}", line.dump());
}

/// What every summary of documents has.
void check_summary(const json& summary) {
  io::read_flag(summary, "finite");
  check_bad_lines(summary);
}

void check_ppl_summary(const json& summary) {
  check_summary(summary);
  const size_t buckets = summary.at("mean_nll_nats").size();
  read_integer(summary, "bucket_tokens", 1, kMostTokens);
  for (const char* field : {"mean_nll_nats", "standard_error_nats", "perplexity", "targets"})
    io::check_numbers(summary, field, buckets);
  if (summary.contains("bits_per_byte"))
    io::check_numbers(summary, "bits_per_byte", buckets);
}

/// The key says which trial it is, and so do fields that others read.
void check_trial(const json& record, int64_t depths) {
  const PasskeyTrial trial = {.length_tokens = read_integer(record, "length_tokens", 1),
                              .depth_index = read_integer(record, "depth_index", 0, depths - 1),
                              .trial = read_integer(record, "trial")};
  if (const std::string key = record.at("key"); key != trial.key())
    unknown(key);
  io::read_flag(record, "correct");
  io::check_number(record, "answer_nll_nats");
}

void check_passkey_trial(const json& record, int64_t depths) {
  check_trial(record, depths);
  io::read_flag(record, "exact");
}

void check_share(const json& of, const char* field) {
  io::check_number(of, field);
  const double value = of.at(field).is_null() ? 0 : of.at(field).get<double>();
  check(value >= 0 && value <= 1, Error::Kind::Input, "{} is {}, expected 0 to 1", field, value);
}

void check_retrieval_trial(const json& record, int64_t depths) {
  check_trial(record, depths);
  check_share(record, "score");
  check(record.at("score").is_number(), Error::Kind::Input, "score is null");
  if (record.contains("real_depth")) {
    check_share(record, "real_depth");
    read_integer(record, "needle_token", 0, read_integer(record, "prompt_tokens", 1) - 1);
  }
}

/// Null stands for the accuracy of no trial.
void check_trial_summary(const json& summary, int64_t depths) {
  for (const char* field : {"accuracy", "low", "high"})
    check_share(summary, field);
  for (const char* field : {"low", "high"})
    check(summary.at(field).is_number(), Error::Kind::Input, "{} is null", field);
  if (summary.contains("answers_cut"))
    read_integer(summary, "answers_cut");
  for (const json& cell : io::read_array(summary, "depths", static_cast<size_t>(depths)))
    if (!cell.is_null()) {
      check_share(cell, "accuracy");
      check(!cell.at("accuracy").is_null(), Error::Kind::Input, "accuracy of a depth is null");
    }
}

}  // namespace

int64_t document_number(const json& record) {
  constexpr std::string_view kPrefix = "document=";
  const std::string key = record.at("key");
  if (key == "summary")
    return -1;
  int64_t number = -1;
  if (key.starts_with(kPrefix))
    std::from_chars(key.data() + kPrefix.size(), key.data() + key.size(), number);
  if (number < 0 || key != fmt::format("{}{}", kPrefix, number))
    unknown(key);
  check(!record.contains("document") || record.at("document") == number, Error::Kind::Input,
        "document is {}", record.value("document", json()).dump());
  return number;
}

void check_ppl_record(const json& record, int64_t bucket_tokens) {
  if (!is_document(record))
    return check_ppl_summary(record);
  const int64_t targets = read_integer(record, "targets", 1, kMostTokens);
  const auto buckets = static_cast<size_t>((targets + bucket_tokens - 1) / bucket_tokens);
  io::check_numbers(record, "nll_sum_nats", buckets);
  if (record.contains("text_bytes"))
    for (const json& bytes : io::read_array(record, "text_bytes", buckets))
      check(bytes.is_number_unsigned(), Error::Kind::Input, "text_bytes holds {}", bytes.dump());
  read_integer(record, "not_finite_targets", 0, targets);
  io::read_flag(record, "finite");
}

void check_state_stats_record(const json& record) {
  if (!is_document(record))
    return check_summary(record);
  io::read_flag(record, "finite");
  const int64_t targets = read_integer(record, "targets", 1, kMostTokens);
  const int64_t stride = read_integer(record, "stride_tokens", 1, targets);
  read_integer(record, "samples", targets / stride, targets / stride);
}

void check_retention_record(const json& record) {
  if (!is_document(record))
    return check_summary(record);
  io::read_flag(record, "finite");
  read_integer(record, "targets", 1, kMostTokens);
  const json& life = record.at("half_life");
  read_integer(life, "starts", 1, kMostTokens);
  read_integer(life, "followed_tokens", 1, kMostTokens);
  io::read_text(record, "transition");
  check(!record.at("points").empty(), Error::Kind::Input, "points has no elements");
  for (const json& point : record.at("points")) {
    read_integer(point, "read_tokens", 1, kMostTokens);
    const size_t suffixes = point.at("suffix_tokens").size();
    io::check_numbers(point, "effrem", suffixes);
    io::check_nested_numbers(point, "surviving_weight_by_layer");
  }
}

void check_passkey_record(const json& record, int64_t depths) {
  const std::string key = record.at("key");
  if (key.starts_with("summary/len="))
    check_trial_summary(record, depths);
  else if (key != "summary")
    check_passkey_trial(record, depths);
}

void check_retrieval_record(const json& record, int64_t depths) {
  const std::string key = record.at("key");
  if (key.starts_with("summary/len="))
    check_trial_summary(record, depths);
  else if (key != "summary")
    check_retrieval_trial(record, depths);
}

}  // namespace stuffed::eval
