#include "stuffed/train/launch.h"

#include <map>

#include <gtest/gtest.h>

#include "stuffed/core/error.h"

namespace stuffed::train {
namespace {

using Environment = std::map<std::string, std::string>;

const Environment kTorchrun = {{"RANK", "3"},
                               {"WORLD_SIZE", "4"},
                               {"LOCAL_RANK", "1"},
                               {"MASTER_ADDR", "10.0.0.1"},
                               {"MASTER_PORT", "29500"}};
const Environment kSlurm = {{"SLURM_PROCID", "3"},
                            {"SLURM_NTASKS", "4"},
                            {"SLURM_LOCALID", "1"},
                            {"SLURM_JOB_ID", "123456"},
                            {"SLURM_NODELIST", "n[07-09,11],m1"}};

Launch launch_of(const Environment& environment) {
  return read_launch([&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? nullptr : found->second.c_str();
  });
}

Environment with(Environment environment, const std::string& name, const std::string& value) {
  environment[name] = value;
  return environment;
}

std::string refusal(const Environment& environment) {
  try {
    launch_of(environment);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Usage);
    return error.what();
  }
  return "";
}

TEST(Launch, ReadsTorchrunsVariables) {
  const Launch launch = launch_of(kTorchrun);
  EXPECT_EQ(launch.rank, 3);
  EXPECT_EQ(launch.size, 4);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.address, "10.0.0.1");
  EXPECT_EQ(launch.port, 29500);
  EXPECT_FALSE(launch.is_served);
  EXPECT_TRUE(launch_of(with(kTorchrun, "TORCHELASTIC_USE_AGENT_STORE", "True")).is_served);
  EXPECT_FALSE(launch_of(with(kTorchrun, "TORCHELASTIC_USE_AGENT_STORE", "False")).is_served);
  EXPECT_EQ(launch_of(with(kTorchrun, "TORCHELASTIC_RESTART_COUNT", "2")).attempt, "2");
}

TEST(Launch, ReadsSlurmsVariables) {
  const Launch launch = launch_of(kSlurm);
  EXPECT_EQ(launch.rank, 3);
  EXPECT_EQ(launch.size, 4);
  EXPECT_EQ(launch.local_rank, 1);
  EXPECT_EQ(launch.address, "n07");
  EXPECT_EQ(launch.port, 12000 + 123456 % 20000);
  EXPECT_EQ(launch_of(with(kSlurm, "SLURM_PROCID", "0")).port, launch.port);
  EXPECT_NE(launch_of(with(kSlurm, "SLURM_STEP_ID", "1")).port, launch.port);
  EXPECT_EQ(launch_of(with(kSlurm, "SLURM_STEP_NODELIST", "m1")).address, "m1");
  EXPECT_EQ(launch_of(with(kSlurm, "MASTER_ADDR", "other")).address, "other");
  EXPECT_EQ(launch_of(with(kSlurm, "MASTER_PORT", "1234")).port, 1234);
}

TEST(Launch, NamesTheVariableThatIsMissing) {
  for (const Environment& whole : {kTorchrun, kSlurm})
    for (const auto& [name, value] : whole) {
      Environment lacking = whole;
      lacking.erase(name);
      // Without a list of hosts the last resort is named.
      const std::string named = name == "SLURM_NODELIST" ? "SLURM_LAUNCH_NODE_IPADDR" : name;
      const std::string said = refusal(lacking);
      EXPECT_NE(said.find(named), said.npos) << name << ": " << said;
      EXPECT_NE(said.find("torchrun --no-python"), said.npos) << said;
    }
}

TEST(Launch, RefusesWhatIsInconsistent) {
  const std::pair<const char*, const char*> wrong[] = {
      {"RANK", "4"},       {"RANK", "-1"},       {"WORLD_SIZE", "two"},    {"WORLD_SIZE", "3"},
      {"LOCAL_RANK", "4"}, {"MASTER_PORT", "0"}, {"MASTER_PORT", "29500x"}};
  for (const auto& [name, value] : wrong) {
    const std::string said = refusal(with(kTorchrun, name, value));
    const bool blames_rank = std::string(value) == "3";  // of three, this one is rank 3
    EXPECT_NE(said.find(blames_rank ? "RANK is '3'" : fmt::format("{} is '{}'", name, value)),
              said.npos)
        << said;
  }
}

TEST(Launch, FindsTheFirstHostOfAList) {
  EXPECT_EQ(first_host("one"), "one");
  EXPECT_EQ(first_host("one,two"), "one");
  EXPECT_EQ(first_host("n[001-004,7],other"), "n001");
  EXPECT_EQ(first_host("n[3,5]"), "n3");
  EXPECT_EQ(first_host("n[12]"), "n12");
  EXPECT_EQ(first_host("a,n[12]"), "a");
}

}  // namespace
}  // namespace stuffed::train
