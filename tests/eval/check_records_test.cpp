// Records that somebody edited are refused in words; those that older versions wrote are not.
#include "stuffed/eval/check_records.h"

#include <map>

#include "stuffed/io/journal.h"
#include "tests/support/files.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

using io::json;
using Check = std::function<void(const json&)>;

const std::map<std::string, Check> kChecks = {
    {"passkey", [](const json& record) { check_passkey_record(record, 3); }},
    {"ppl_by_length", [](const json& record) { check_ppl_record(record, 16); }},
    {"state_stats", check_state_stats_record},
    {"retention", check_retention_record},
};

/// The records of a kept sample, by key.
std::map<std::string, json> sample(const std::string& schema) {
  std::map<std::string, json> records;
  io::read_journal(testing::golden_path("results") / (schema + ".v1.jsonl"),
                   [&](const json& record, io::LinePlace) {
                     records[record.at("key").get<std::string>()] = record;
                   });
  return records;
}

TEST(CheckRecords, WhatWasWrittenPasses) {
  for (const auto& [schema, check_record] : kChecks) {
    EXPECT_GE(sample(schema).size(), 2u);
    for (const auto& [key, record] : sample(schema))
      EXPECT_NO_THROW(check_record(record)) << schema << " " << key;
  }
}

TEST(CheckRecords, ALengthWhoseAnswersAreAllCutHasNoAccuracy) {
  json summary = sample("passkey").at("summary/len=512");
  summary["accuracy"] = nullptr;
  summary["depths"] = {nullptr, nullptr, nullptr};
  EXPECT_NO_THROW(check_passkey_record(summary, 3));
}

TEST(CheckRecords, EditedFieldsAreNamed) {
  struct Edit {
    std::string schema, key, pointer;
    json value;
    std::string says;
  };
  const std::string trial = "len=512/depth=0/trial=0";
  const std::vector<Edit> edits = {
      {"passkey", trial, "/length_tokens", 513, "key"},
      {"passkey", trial, "/depth_index", 3, "depth_index"},
      {"passkey", trial, "/trial", 1, "key"},
      {"passkey", trial, "/trial", 0.0, "trial"},
      {"passkey", trial, "/key", "len=512/depth=00/trial=0", "key"},
      {"passkey", trial, "/key", "leng=512", "key"},
      {"passkey", trial, "/correct", 1, "correct"},
      {"passkey", trial, "/answer_nll_nats", "low", "answer_nll_nats"},
      {"passkey", "summary/len=512", "/accuracy", 1.5, "accuracy"},
      {"passkey", "summary/len=512", "/low", nullptr, "low"},
      {"passkey", "summary/len=512", "/depths/0/accuracy", -0.5, "accuracy"},
      {"passkey", "summary/len=512", "/depths", {0.5}, "depths"},
      {"passkey", "summary/len=512", "/answers_cut", "none", "answers_cut"},
      {"ppl_by_length", "document=0", "/key", "document=00", "key"},
      {"ppl_by_length", "document=0", "/key", "document=+0", "key"},
      {"ppl_by_length", "document=0", "/key", "document=99999999999999999999", "key"},
      {"ppl_by_length", "document=0", "/targets", uint64_t{1} << 63, "targets"},
      {"ppl_by_length", "document=0", "/finite", 1, "finite"},
      {"ppl_by_length", "summary", "/bad_lines", {{"count", 1}, {"lines", 3}}, "bad_lines"},
      {"ppl_by_length", "summary", "/bad_lines", {{"count", "x"}, {"lines", {3}}}, "count"},
      {"ppl_by_length", "summary", "/bad_lines", {{"count", 1}, {"lines", {"3"}}}, "bad_lines"},
      {"state_stats", "summary", "/finite", "yes", "finite"},
      {"state_stats", "document=0", "/samples", 3, "samples"},
      {"retention", "document=0", "/transition", 3, "transition"},
      {"retention", "document=0", "/points", json::array(), "points"},
      {"retention", "document=0", "/half_life/starts", -1, "starts"},
  };
  for (const Edit& edit : edits) {
    json record = sample(edit.schema).at(edit.key);
    record[json::json_pointer(edit.pointer)] = edit.value;
    SCOPED_TRACE(
        fmt::format("{} {} {} = {}", edit.schema, edit.key, edit.pointer, edit.value.dump()));
    testing::expect_error(Error::Kind::Input, {edit.says},
                          [&] { kChecks.at(edit.schema)(record); });
  }
}

TEST(CheckRecords, NoValueMakesMoreThanARefusal) {
  const std::vector<json> values = {nullptr, true, -1,  1.5,           uint64_t{1} << 63,
                                    "",      "x",  {1}, json::array(), json::object()};
  for (const auto& [schema, check_record] : kChecks)
    for (const auto& [key, whole] : sample(schema)) {
      const json flat = whole.flatten();
      for (const auto& [pointer, unused] : flat.items())
        for (const json& value : values) {
          if (pointer == "/key" && !value.is_string())
            continue;  // no record at all: the journal's reader refuses it
          json record = whole;
          record[json::json_pointer(pointer)] = value;
          try {
            check_record(record);
          } catch (const Error& error) {
            EXPECT_EQ(error.kind(), Error::Kind::Input) << error.what();
          } catch (const json::exception&) {
            // the journal's reader says which line that is
          } catch (const std::exception& error) {
            ADD_FAILURE() << schema << " " << pointer << ": " << error.what();
          }
        }
    }
}

}  // namespace
}  // namespace stuffed::eval
