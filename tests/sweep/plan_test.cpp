#include "stuffed/sweep/plan.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "stuffed/sweep/pool.h"
#include "support/files.h"

namespace stuffed::sweep {
namespace {

using testing::expect_error;
using testing::TempFolder;

std::optional<std::vector<std::string>> options_for_test(const std::string& command) {
  if (command == "ppl-by-length")
    return std::vector<std::string>{"model", "text", "length", "mitigation", "bucket", "per-token"};
  if (command == "passkey")
    return std::vector<std::string>{"model", "lengths", "trials"};
  return {};
}

std::vector<Cell> plan_of(const TempFolder& folder, const std::string& text) {
  return read_plan(folder.write("sweep.toml", text), options_for_test);
}

std::vector<std::string> names_of(const std::vector<Cell>& cells) {
  std::vector<std::string> names;
  for (const Cell& cell : cells)
    names.push_back(cell.name);
  return names;
}

constexpr const char* kGrid = R"(
[defaults]
text = "war.txt"
bucket = 64
[[runs]]
command = "ppl-by-length"
name = "{model}-{length}-{mitigation}"
[runs.grid]
model = ["models/a", "b/"]
length = ["1K", 2048]
mitigation = [[], ["rri"], ["rri", "clip_insert:max=1"]]
)";

TEST(SweepPlan, TheFirstAxisVariesSlowestAndValuesMayBeArrays) {
  const TempFolder folder;
  const std::vector<Cell> cells = plan_of(folder, kGrid);
  EXPECT_EQ(names_of(cells), (std::vector<std::string>{
                                 "a-1K-none", "a-1K-rri", "a-1K-rri+clip_insert-max=1",
                                 "a-2048-none", "a-2048-rri", "a-2048-rri+clip_insert-max=1",
                                 "b-1K-none", "b-1K-rri", "b-1K-rri+clip_insert-max=1",
                                 "b-2048-none", "b-2048-rri", "b-2048-rri+clip_insert-max=1"}));
  EXPECT_EQ(cells[2].arguments("out"),
            (std::vector<std::string>{"ppl-by-length", "--text=war.txt", "--bucket=64",
                                      "--model=models/a", "--length=1K", "--mitigation=rri",
                                      "--mitigation=clip_insert:max=1", "-o",
                                      "out/a-1K-rri+clip_insert-max=1.jsonl"}));
  EXPECT_EQ(cells[0].find("mitigation"), nullptr);
  EXPECT_EQ(cells[0].model_key(), cells[5].model_key());
  EXPECT_NE(cells[0].model_key(), cells[6].model_key());
}

TEST(SweepPlan, OnlyKeepsAndExceptDrops) {
  const TempFolder folder;
  const std::string only = "[[runs.only]]\nmodel = \"b/\"\n[[runs.only]]\nlength = 2048\n";
  const std::string except =
      "[[runs.except]]\nmitigation = [\"rri\"]\n[[runs.except]]\nlength = "
      "[\"1K\"]\nmitigation = [[]]\n";
  EXPECT_EQ(names_of(plan_of(folder, kGrid + only + except)),
            (std::vector<std::string>{"a-2048-none", "a-2048-rri+clip_insert-max=1",
                                      "b-1K-rri+clip_insert-max=1", "b-2048-none",
                                      "b-2048-rri+clip_insert-max=1"}));
}

TEST(SweepPlan, NamesAreMadeFromTheAxes) {
  const TempFolder folder;
  const auto names = names_of(plan_of(folder,
                                      "[[runs]]\ncommand = \"passkey\"\ntrials = 1\n[runs.grid]\n"
                                      "model = [\"x/same\", \"y/same\"]\nlengths = [[\"1K\", "
                                      "\"2K\"], \"4K\"]\n"));
  EXPECT_EQ(names, (std::vector<std::string>{"passkey-x-same-1K+2K", "passkey-x-same-4K",
                                             "passkey-y-same-1K+2K", "passkey-y-same-4K"}));
}

TEST(SweepPlan, ADefaultGoesToCommandsThatHaveIt) {
  const TempFolder folder;
  const auto cells = plan_of(folder,
                             "[defaults]\nmodel = \"m\"\nbucket = 8\n[[runs]]\ncommand = "
                             "\"passkey\"\n[[runs]]\ncommand = \"ppl-by-length\"\n");
  EXPECT_EQ(cells[0].value("bucket"), "");
  EXPECT_EQ(cells[1].value("bucket"), "8");
}

TEST(SweepPlan, ArraysOfACellAreNamedAfterIt) {
  const TempFolder folder;
  const auto cells = plan_of(folder,
                             "[[runs]]\ncommand = \"ppl-by-length\"\nname = \"{model}\"\n"
                             "per_token = \"{name}.nll.safetensors\"\n[runs.grid]\nmodel = [\"a\", "
                             "\"b\"]\n");
  EXPECT_EQ(cells[1].arguments("out")[1], "--per-token=out/b.nll.safetensors");
}

TEST(SweepPlan, MistakesAreUsageErrorsThatNameThem) {
  const TempFolder folder;
  const std::string run = "[[runs]]\ncommand = \"ppl-by-length\"\n";
  for (const auto& [text, part] : std::vector<std::pair<std::string, std::string>>{
           {run + "lenght = 1\n", "lenght"},
           {"[defaults]\nlenght = 1\n" + run, "lenght"},
           {run + "[runs.grid]\nlenght = [1]\n", "lenght"},
           {run + "[[runs.only]]\nlenght = 1\n", "lenght"},
           {run + "[runs.grid]\nlength = [1, 2]\n[[runs.except]]\nlength = 3\n", "length"},
           {run + "output = \"x\"\n", "output"},
           {run + "name = \"{nosuch}\"\n", "nosuch"},
           {run + "name = \"a/b\"\n", "a/b"},
           {run + "[runs.grid]\nlength = 1\n", "length"},
           {run + "[runs.grid]\nlength = []\n", "length"},
           {run + "[runs.grid]\nlength = [1, 1]\n", "twice"},
           {run + "length = 1\n[runs.grid]\nlength = [1]\n", "length"},
           {run + run, "ppl-by-length"},  // two cells of one name
           {run + "name = \"x\"\n[runs.grid]\nlength = [1, 2]\n", "'x'"},
           {run + "per-token = \"x\"\nname = \"{length}\"\n[runs.grid]\nlength = [1, 2]\n", "'x'"},
           {"[[runs]]\ncommand = \"generate\"\n", "generate"},
           {"[[runs]]\nmodel = \"m\"\n", "no command"},
           {"[run]\n", "'run'"},
           {"", "[[runs]]"},
       })
    expect_error(Error::Kind::Usage, {part, "sweep.toml"}, [&] { plan_of(folder, text); });
  expect_error(Error::Kind::Input, {"line 1"}, [&] { plan_of(folder, "= 1"); });
  expect_error(Error::Kind::Input, {"absent"},
               [&] { read_plan(folder / "absent", options_for_test); });
}

TEST(SweepShards, CoverEveryCellOnce) {
  std::vector<Cell> cells(7);
  for (size_t i = 0; i < cells.size(); ++i)
    cells[i].name = std::to_string(i);
  EXPECT_EQ(names_of(take_shard(cells, {.index = 1, .count = 3})),
            (std::vector<std::string>{"1", "4"}));
  size_t taken = 0;
  for (int64_t i = 0; i < 3; ++i)
    taken += take_shard(cells, {.index = i, .count = 3}).size();
  EXPECT_EQ(taken, cells.size());
  EXPECT_TRUE(take_shard(cells, parse_shard("8/9")).empty());
  for (const char* text : {"", "1", "3/3", "-1/3", "1/0", "a/b", "1/2/3"})
    expect_error(Error::Kind::Usage, {"--shard"}, [&] { parse_shard(text); });
}

/// Variables of Slurm, gone with the object.
struct SlurmArray {
  SlurmArray(const char* id, const char* least, const char* step, const char* count) {
    setenv("SLURM_ARRAY_TASK_ID", id, 1);
    setenv("SLURM_ARRAY_TASK_MIN", least, 1);
    setenv("SLURM_ARRAY_TASK_STEP", step, 1);
    setenv("SLURM_ARRAY_TASK_COUNT", count, 1);
  }
  ~SlurmArray() {
    for (const char* name : {"SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP",
                             "SLURM_ARRAY_TASK_COUNT"})
      unsetenv(name);
  }
};

TEST(SweepShards, ComeFromSlurmsArray) {
  EXPECT_EQ(shard_of_environment().count, 1);
  {
    const SlurmArray array("14", "10", "2", "4");
    EXPECT_EQ(shard_of_environment().index, 2);
    EXPECT_EQ(shard_of_environment().count, 4);
  }
  const SlurmArray gaps("7", "1", "1", "3");
  expect_error(Error::Kind::Usage, {"SLURM_ARRAY_TASK_ID", "--shard"},
               [] { shard_of_environment(); });
}

TEST(SweepGpus, AreThoseThatAreVisible) {
  unsetenv("CUDA_VISIBLE_DEVICES");
  EXPECT_EQ(visible_gpus(2), (std::vector<std::string>{"0", "1"}));
  for (const auto& [variable, gpus] : std::vector<std::pair<const char*, std::vector<std::string>>>{
           {"3,5", {"3", "5"}},
           {"GPU-ab,MIG-cd", {"GPU-ab", "MIG-cd"}},
           {"", {}},
           {"1,-1,2", {"1"}}}) {
    setenv("CUDA_VISIBLE_DEVICES", variable, 1);
    EXPECT_EQ(visible_gpus(8), gpus) << variable;
  }
  unsetenv("CUDA_VISIBLE_DEVICES");
}

}  // namespace
}  // namespace stuffed::sweep
