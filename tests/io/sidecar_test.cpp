#include "stuffed/io/sidecar.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/io/tensor_file.h"
#include "tests/support/files.h"

namespace stuffed::io {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::read_bytes;

/// Journals and one sidecar in a folder of their own.
class SidecarTest : public ::testing::Test {
 protected:
  Journal journal(const std::string& name,
                  const std::string& id,
                  int64_t seed = 1,
                  bool overwrite = false) const {
    JournalHeader header{.schema = "stuffed.retention",
                         .version = 1,
                         .config = {{"seed", seed}},
                         .provenance = {{"commit", "c0ffee"}}};
    if (!id.empty())
      header.provenance["run_id"] = id;
    return Journal::open(folder_ / name, header, overwrite);
  }

  static void write_part(const Sidecar& sidecar, float value) {
    write_safetensors(sidecar.part("document=0.safetensors"), {{"x", at::full({2}, value)}});
  }

  /// A whole run: one record, the file, the end.
  void finish(const std::string& name, const std::string& id, int64_t seed, float value) {
    Journal results = journal(name, id, seed);
    const Sidecar sidecar(path_, results);
    write_part(sidecar, value);
    results.append("document=0", {{"targets", 2}});
    sidecar.write({{"half_life_tokens", at::full({2}, value)}}, {});
    results.finish();
    sidecar.remove_partial();
  }

  testing::TempFolder folder_;
  fs::path path_ = folder_ / "run.safetensors";
  fs::path partial_ = folder_ / "run.safetensors.partial";
};

TEST_F(SidecarTest, ItsNameReplacesJsonlAloneAndIsAppendedToAllElse) {
  EXPECT_EQ(sidecar_beside("out/war.jsonl"), "out/war.safetensors");
  EXPECT_EQ(sidecar_beside("mamba2-1.3b"), "mamba2-1.3b.safetensors");
  EXPECT_EQ(sidecar_beside("a.json"), "a.json.safetensors");
  EXPECT_EQ(sidecar_beside("out.d/.jsonl"), "out.d/.jsonl.safetensors");
}

TEST_F(SidecarTest, AFinishedRunLeavesTheFileAlone) {
  finish("a.jsonl", "A", 1, 1);
  EXPECT_TRUE(fs::exists(path_));
  EXPECT_FALSE(fs::exists(partial_));
  const std::string whole = read_bytes(path_);
  const Journal results = journal("a.jsonl", "another process");
  const Sidecar again(path_, results);
  EXPECT_EQ(read_bytes(path_), whole);
  EXPECT_FALSE(fs::exists(partial_));
}

TEST_F(SidecarTest, TheSameCommandEndsWithTheSameBytesWhateverItsId) {
  finish("a.jsonl", "A", 1, 1);
  const std::string whole = read_bytes(path_);
  fs::remove(path_);
  finish("b.jsonl", "B", 1, 1);
  EXPECT_EQ(read_bytes(path_), whole);
}

TEST_F(SidecarTest, AFinishedRunWhoseFileIsGoneOrAnothersSaysSo) {
  finish("a.jsonl", "A", 1, 1);
  const std::string of_a = read_bytes(path_);
  fs::remove(path_);
  expect_error(Error::Kind::Input, {"run.safetensors", "missing", "--overwrite"},
               [&] { Sidecar(path_, journal("a.jsonl", "A")); });
  finish("b.jsonl", "B", 2, 2);
  expect_error(Error::Kind::Input, {"run.safetensors", "another run", "a.jsonl"},
               [&] { Sidecar(path_, journal("a.jsonl", "A")); });
}

TEST_F(SidecarTest, AnotherRunsFileIsRefusedAndKept) {
  finish("a.jsonl", "A", 1, 1);
  const std::string whole = read_bytes(path_);
  for (const int64_t seed : {1, 2})  // of the same settings or of others
    for (const bool overwrite : {false, true})
      expect_error(Error::Kind::Usage, {"run.safetensors", "another run"},
                   [&] { Sidecar(path_, journal("b.jsonl", "B", seed, overwrite)); });
  EXPECT_EQ(read_bytes(path_), whole);
  EXPECT_FALSE(fs::exists(partial_));
}

TEST_F(SidecarTest, AForeignFileIsRefusedAndKept) {
  folder_.write("run.safetensors", "not safetensors at all");
  expect_error(Error::Kind::Input, {"run.safetensors", "left as it is"},
               [&] { Sidecar(path_, journal("a.jsonl", "A")); });
  EXPECT_EQ(read_bytes(path_), "not safetensors at all");
  write_safetensors(path_, {{"weight", at::ones({2})}}, {{"format", "pt"}});
  expect_error(Error::Kind::Input, {"run.safetensors", "left as it is"},
               [&] { Sidecar(path_, journal("a.jsonl", "A")); });
}

TEST_F(SidecarTest, PartsOfAnotherRunAreRefusedAndKept) {
  {
    Journal results = journal("a.jsonl", "A");
    const Sidecar sidecar(path_, results);
    write_part(sidecar, 1);
    results.append("document=0", {{"targets", 2}});
  }
  expect_error(Error::Kind::Usage, {"run.safetensors.partial", "another run", "a.jsonl"},
               [&] { Sidecar(path_, journal("b.jsonl", "B")); });
  EXPECT_TRUE(fs::exists(partial_ / "document=0.safetensors"));
  // And a goes on, wherever it was moved to.
  fs::rename(folder_ / "a.jsonl", folder_ / "moved.jsonl");
  const Journal results = journal("moved.jsonl", "another process");
  const Sidecar sidecar(path_, results);
  EXPECT_TRUE(fs::exists(sidecar.part("document=0.safetensors")));
}

TEST_F(SidecarTest, TwoAtOnceAreRefused) {
  const Journal a = journal("a.jsonl", "A"), b = journal("b.jsonl", "B");
  const Sidecar first(path_, a);
  expect_error(Error::Kind::Output, {"run.safetensors.partial", "another process"},
               [&] { Sidecar(path_, b); });
  EXPECT_TRUE(fs::exists(partial_ / "run.json")) << "the refused one removed the other's folder";
}

TEST_F(SidecarTest, ARunBegunAnewThrowsAwayItsOwnPartsAndFile) {
  finish("a.jsonl", "A", 1, 1);
  {
    Journal results = journal("a.jsonl", "A2", 2, /*overwrite=*/true);
    const Sidecar sidecar(path_, results);
    EXPECT_FALSE(fs::exists(path_));
    write_part(sidecar, 2);
    results.append("document=0", {{"targets", 2}});
  }
  {  // killed, and begun anew once more
    Journal results = journal("a.jsonl", "A3", 3, /*overwrite=*/true);
    const Sidecar sidecar(path_, results);
    EXPECT_FALSE(fs::exists(sidecar.part("document=0.safetensors")));
  }
  EXPECT_FALSE(fs::exists(partial_)) << "nothing was measured, and nothing is left";
}

TEST_F(SidecarTest, ARefusedCommandDoesNotStandInTheWayOfTheCorrectedOne) {
  { Sidecar(path_, journal("a.jsonl", "A", 1)); }
  EXPECT_NO_THROW(Sidecar(path_, journal("a.jsonl", "A2", 2)));
}

TEST_F(SidecarTest, OlderJournalsGoOnWithTheirParts) {
  {
    Journal results = journal("old.jsonl", "");
    results.append("document=0", {{"targets", 2}});
  }
  write_safetensors(folder_ / "run.safetensors.document-0.partial", {{"x", at::ones({2})}});
  const Journal results = journal("old.jsonl", "another process");
  const Sidecar sidecar(path_, results);
  sidecar.adopt(folder_ / "run.safetensors.document-0.partial", "document=0.safetensors");
  EXPECT_TRUE(fs::exists(sidecar.part("document=0.safetensors")));
}

TEST_F(SidecarTest, AnOlderRawFileBecomesAPart) {
  {
    Journal results = journal("old.jsonl", "");
    results.append("document=0", {{"targets", 2}});
  }
  folder_.write("run.safetensors.partial", "raw floats");
  const Journal results = journal("old.jsonl", "another process");
  const Sidecar sidecar(path_, results);
  EXPECT_EQ(read_bytes(sidecar.part("nll")), "raw floats");
}

TEST_F(SidecarTest, AFinishedOlderJournalNeedsNoSignature) {
  {
    Journal results = journal("old.jsonl", "");
    results.append("document=0", {{"targets", 2}});
    results.finish();
  }
  write_safetensors(path_, {{"half_life_tokens", at::ones({2})}});
  EXPECT_NO_THROW(Sidecar(path_, journal("old.jsonl", "another process")));
}

TEST_F(SidecarTest, CheckedBeforeTheJournalIsTouched) {
  finish("a.jsonl", "A", 1, 1);
  EXPECT_NO_THROW(check_sidecar(path_, folder_ / "a.jsonl"));
  expect_error(Error::Kind::Usage, {"another run"},
               [&] { check_sidecar(path_, folder_ / "b.jsonl"); });
  { journal("b.jsonl", "B"); }
  expect_error(Error::Kind::Usage, {"another run"},
               [&] { check_sidecar(path_, folder_ / "b.jsonl"); });
  EXPECT_NO_THROW(check_sidecar(folder_ / "new.safetensors", folder_ / "b.jsonl"));
}

TEST_F(SidecarTest, WithoutAPathNothingHappens) {
  const Journal results = journal("a.jsonl", "A");
  const Sidecar sidecar({}, results);
  EXPECT_FALSE(sidecar.exists());
  sidecar.write({{"x", at::ones({1})}}, {});
  sidecar.remove_partial();
}

}  // namespace
}  // namespace stuffed::io
