// Journals that somebody edited: export refuses them in words, or what it writes is sound.
#include <ATen/ATen.h>

#include "stuffed/eval/export_paper.h"
#include "stuffed/io/json.h"
#include "stuffed/io/tensor_file.h"
#include "tests/support/files.h"

namespace stuffed::eval {
namespace {

using io::json;

/// The lines of a journal: header, records, end.
using Lines = std::vector<json>;

json passkey_trial(int64_t depth, int64_t trial) {
  return {{"key", fmt::format("len=2048/depth={}/trial={}", depth, trial)},
          {"length_tokens", 2048},
          {"depth_index", depth},
          {"depth", 0.25 + 0.5 * static_cast<double>(depth)},
          {"trial", trial},
          {"blocks", 9},
          {"position_blocks", 4 * depth},
          {"passkey", "12345"},
          {"prediction", "12345."},
          {"correct", true},
          {"exact", true},
          {"answer_nll_nats", 0.5}};
}

Lines passkey_run() {
  return {{{"schema", "stuffed.passkey"},
           {"version", 1},
           {"config",
            {{"model", {{"family", "mamba2"}, {"sha256", "00"}}},
             {"lengths_tokens", {2048}},
             {"depths", 2},
             {"trials", 1},
             {"protocol", "ours"},
             {"grid", "shared"},
             {"use_bos", false},
             {"add_prefix", false},
             {"dtype", "f32"}}},
           {"provenance", {{"commit", "c0ffee"}}}},
          passkey_trial(0, 0),
          passkey_trial(1, 0),
          {{"end", true}, {"records", 2}}};
}

json ppl_document(int64_t number, int64_t targets) {
  return {{"key", fmt::format("document={}", number)},
          {"document", number},
          {"name", fmt::format("books.jsonl:{}", number + 1)},
          {"targets", targets},
          {"nll_sum_nats", {1.5, 2.5}},
          {"not_finite_targets", 0},
          {"finite", true}};
}

Lines ppl_run() {
  return {{{"schema", "stuffed.ppl_by_length"},
           {"version", 1},
           {"config",
            {{"model", {{"family", "mamba2"}, {"sha256", "0123456789abcdef"}}},
             {"data", {{"kind", "jsonl"}}},
             {"bucket_tokens", 2},
             {"train_len_tokens", 8192},
             {"per_token", true},
             {"dtype", "f32"}}},
           {"provenance", {{"per_token", "nll.safetensors"}, {"model", "models/m"}}}},
          ppl_document(0, 3),
          ppl_document(2, 3),  // line 2 was no JSON, and left out
          {{"end", true}, {"records", 2}}};
}

class ExportTest : public ::testing::Test {
 protected:
  ExportTest() {
    io::write_safetensors(folder_ / "nll.safetensors", {{"nll", at::arange(6).view({2, 3})}});
  }

  std::filesystem::path write(const Lines& lines) {
    std::string text;
    for (const json& line : lines)
      text += line.dump() + "\n";
    return folder_.write("run.jsonl", text);
  }

  PaperFiles run(const Lines& lines) {
    return export_paper(write(lines), folder_ / "out", {.overwrite = true});
  }

  /// Nothing but Error{Input or Output} may come of it, and no file outside of the folder.
  bool is_accepted(const Lines& lines, const std::string& what) {
    try {
      for (const auto& file : run(lines).written) {
        const auto inside = file.lexically_normal().lexically_relative(folder_ / "out");
        EXPECT_NE(*inside.begin(), "..") << what << ": " << file;
      }
      return true;
    } catch (const Error& error) {
      EXPECT_TRUE(error.kind() == Error::Kind::Input || error.kind() == Error::Kind::Output)
          << what << ": " << error.what();
      EXPECT_NE(std::string(error.what()).find((folder_ / "").string()), std::string::npos)
          << what << " names no file: " << error.what();
      return false;
    } catch (const std::exception& error) {
      ADD_FAILURE() << what << ": " << error.what();
      return false;
    }
  }

  /// Every value in every line becomes another, or goes.
  void mutate(const Lines& whole) {
    const std::vector<json> values = {nullptr, -1,  1.5,           uint64_t{1} << 63,   "..",
                                      "x",     {1}, json::array(), std::string("\0", 1)};
    for (size_t line = 0; line < whole.size(); ++line) {
      const json flat = whole[line].flatten();
      for (const auto& [pointer, unused] : flat.items())
        for (json::json_pointer at(pointer);; at = at.parent_pointer()) {
          for (const json& value : values) {
            Lines lines = whole;
            lines[line][at] = value;
            is_accepted(lines, fmt::format("line {} {} = {}", line, at.to_string(), value.dump()));
          }
          if (at.empty())
            break;
          Lines lines = whole;
          if (json& around = lines[line].at(at.parent_pointer()); around.is_object())
            around.erase(at.back());
          else
            around.erase(std::stoul(at.back()));
          is_accepted(lines, fmt::format("line {} without {}", line, at.to_string()));
        }
    }
  }

  /// Refused, with the journal, the line's name and the field's.
  void expect_refused(Lines lines, const std::string& pointer, const json& value, size_t line = 0) {
    lines[line][json::json_pointer(pointer)] = value;
    const std::string field = json::json_pointer(pointer).back();
    const std::string where = line == 0 ? "line 1" : lines[line].value("key", "");
    testing::expect_error(Error::Kind::Input, {"run.jsonl", where, field}, [&] { run(lines); });
  }

  testing::TempFolder folder_;
};

TEST_F(ExportTest, WholeJournalsAreExported) {
  EXPECT_EQ(run(passkey_run()).written.size(), 2u);
  const PaperFiles losses = run(ppl_run());
  EXPECT_EQ(losses.written.size(), 2u);
  EXPECT_TRUE(losses.warnings.empty());
  EXPECT_EQ(losses.written.back().lexically_relative(folder_ / "out"),
            "result_per_token/models--m/books/per_token_loss.pt");
}

TEST_F(ExportTest, AnEditedPasskeyHeaderIsRefusedInWords) {
  const Lines whole = passkey_run();
  for (const char* field : {"dtype", "protocol", "grid", "model/family"})
    expect_refused(whole, fmt::format("/config/{}", field), 3);
  for (const char* field : {"depths", "trials"})
    for (const json& value : {json("2"), json(2.0), json(0), json(-1), json(true), json(1e18)})
      expect_refused(whole, fmt::format("/config/{}", field), value);
  for (const char* field : {"use_bos", "add_prefix"})
    expect_refused(whole, fmt::format("/config/{}", field), 1);
  for (const json& value :
       {json(2048), json("2048"), json::array(), json::array({2048.5}), json::array({0})})
    expect_refused(whole, "/config/lengths_tokens", value);
  for (const auto& [field, unused] : whole[0].at("config").items()) {
    Lines lines = whole;
    lines[0].at("config").erase(field);
    testing::expect_error(Error::Kind::Input, {"run.jsonl", "line 1", field}, [&] { run(lines); });
  }
}

TEST_F(ExportTest, EditedTrialsAreRefusedInWords) {
  const Lines whole = passkey_run();
  for (const char* field : {"prediction", "passkey", "blocks", "correct", "depth_index", "trial"})
    expect_refused(whole, fmt::format("/{}", field), json::array(), 1);
  expect_refused(whole, "/position_blocks", 9, 2);  // of 9 blocks
  for (const auto& [pointer, value] : {std::pair{"/length_tokens", 4096}, {"/depth_index", 0}}) {
    Lines lines = whole;  // the key says otherwise
    lines[2][json::json_pointer(pointer)] = value;
    testing::expect_error(Error::Kind::Input, {"run.jsonl", "len=2048/depth=1/trial=0"},
                          [&] { run(lines); });
  }
  Lines lines = whole;  // a length that was not asked for, though the record fits together
  lines[2]["length_tokens"] = 4096;
  lines[2]["key"] = "len=4096/depth=1/trial=0";
  testing::expect_error(Error::Kind::Input, {"run.jsonl", "4096"}, [&] { run(lines); });
}

TEST_F(ExportTest, NoEditMakesMoreThanARefusal) {
  mutate(passkey_run());
  mutate(ppl_run());
}

TEST_F(ExportTest, ANameInTheJournalIsThatOfOneFolder) {
  Lines lines = ppl_run();
  for (const char* name : {"/tmp/x.txt", "../../x.txt", "..", "."}) {
    lines[1]["name"] = name;
    EXPECT_TRUE(is_accepted(lines, name));
  }
  lines = ppl_run();
  for (const char* model : {"..", "../..", "/a/../../b", "."}) {
    lines[0]["provenance"]["model"] = model;
    EXPECT_TRUE(is_accepted(lines, model));
  }
}

}  // namespace
}  // namespace stuffed::eval
