#include "stuffed/eval/passkey.h"

#include <cmath>
#include <set>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "src/eval/passkey/passkey_summary.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/state_bytes.h"
#include "stuffed/io/passkey_text.h"
#include "tests/io/tokenizer_support.h"
#include "tests/support/files.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

std::vector<int64_t> tokens_of(const PasskeyTask& task, size_t trial) {
  const Prompt& prompt = task.tree.prompts()[trial];
  std::vector<int64_t> tokens(size_t(token_count(task.tree.blocks(), prompt)));
  write_tokens(task.tree.blocks(), prompt, 0, int64_t(tokens.size()), tokens.data());
  return tokens;
}

/// The prompt printed in the paper.
std::string paper_text_of(const PasskeyTrial& trial) {
  namespace text = io::passkey;
  const std::string filler = std::string(text::kFiller) + "\n";
  return "There is important info hidden inside a lot of irrelevant text. Find it and memorize "
         "it.\n\n" +
         testing::repeat(filler, int(trial.position_blocks)) + text::needle(trial.passkey) + "\n" +
         testing::repeat(filler, int(trial.blocks - trial.position_blocks - 1)) +
         "What is the passkey? The passkey is";
}

std::string text_of(const PasskeyTrial& trial) {
  namespace text = io::passkey;
  return std::string(text::kPrefix) +
         testing::repeat(std::string(text::kFiller), int(trial.position_blocks)) +
         text::needle(trial.passkey) +
         testing::repeat(std::string(text::kFiller),
                         int(trial.blocks - trial.position_blocks - 1)) +
         std::string(text::kQuestion);
}

TEST(Wilson, MatchesItsFormula) {  // figures of needs such as "20 of 20 proves 0.84"
  EXPECT_NEAR(wilson(5, 5).low, 0.5655, 1e-4);
  EXPECT_NEAR(wilson(20, 20).low, 0.8389, 1e-4);
  EXPECT_NEAR(wilson(200, 200).low, 0.9812, 1e-4);
  EXPECT_NEAR(wilson(10, 20).low, 0.2993, 1e-4);
  EXPECT_NEAR(wilson(10, 20).high, 0.7007, 1e-4);
  EXPECT_EQ(wilson(0, 0).low, 0);
  EXPECT_EQ(wilson(0, 0).high, 1);
}

TEST(PasskeyGrid, HasExactlyTheDepthsSpreadEvenly) {
  for (const int64_t depths : {1, 7, 10, 40})
    for (int64_t blocks = depths; blocks < 900; blocks += 13) {
      const auto positions = shared_positions(blocks, depths);
      int64_t grid = 1;
      while (2 * grid <= blocks / depths)
        grid *= 2;
      EXPECT_EQ(std::set(positions.begin(), positions.end()).size(), size_t(depths));
      for (int64_t i = 0; i < depths; ++i) {
        EXPECT_EQ(positions[size_t(i)] % grid, 0);
        EXPECT_LE(std::abs(double(positions[size_t(i)]) -
                           (double(i) + 0.5) * double(blocks - 1) / double(depths)),
                  double(grid) / 2);
        EXPECT_LT(positions[size_t(i)], blocks);
      }
    }
}

TEST(PasskeyGrid, PlacesNeedlesAsOlderJournalsDoWhereAsked) {
  EXPECT_EQ(shared_positions(44, 10, PasskeyPlacement::Floored),
            (std::vector<int64_t>{0, 4, 8, 12, 16, 24, 28, 32, 36, 40}));
  EXPECT_EQ(shared_positions(44, 10), (std::vector<int64_t>{4, 8, 12, 16, 20, 24, 28, 32, 36, 40}));
}

TEST(PasskeyGrid, FewBlocksGetMoreRepetitions) {
  const auto tokenizer = io::load_tokenizer("bytes");
  const PasskeyTask task =
      make_passkey(*tokenizer, {.lengths_tokens = {600}, .depths = 10, .trials = 3});
  std::set<std::pair<int64_t, int64_t>> samples;
  for (const PasskeyTrial& trial : task.trials) {
    EXPECT_LT(trial.blocks, 10);
    samples.emplace(trial.position_blocks, trial.repetition);
  }
  EXPECT_EQ(samples.size(), 30u);
}

TEST(PasskeyGrid, KeysDependOnPositionAndRepetitionAlone) {
  const auto tokenizer = io::load_tokenizer("bytes");
  const auto make = [&](std::vector<int64_t> lengths, uint64_t seed) {
    return make_passkey(*tokenizer,
                        {.lengths_tokens = lengths, .depths = 4, .trials = 2, .seed = seed});
  };
  std::map<std::pair<int64_t, int64_t>, std::string> keys;
  int64_t shared = 0;
  for (const PasskeyTrial& trial : make({1024, 2048, 4096}, 3).trials) {
    const auto [place, is_new] =
        keys.try_emplace({trial.position_blocks, trial.repetition}, trial.passkey);
    EXPECT_EQ(place->second, trial.passkey);
    shared += is_new ? 0 : 1;
  }
  EXPECT_GT(shared, 0);
  EXPECT_NE(make({1024}, 3).trials[0].passkey, make({1024}, 4).trials[0].passkey);
}

/// The tokenizers of the published models, where they are installed.
std::vector<std::string> published_tokenizers() {
  std::vector<std::string> found{"bytes"};
  for (const std::string& path : {testing::package_file("rwkv/rwkv_vocab_v20230424.txt"),
                                  testing::published_file("20B_tokenizer.json"),
                                  testing::package_file("mistral_common/data/tokenizer.model.v1")})
    if (!path.empty())
      found.push_back(path);
  return found;
}

TEST(PasskeyPrompts, AssembledTokensAreThoseOfTheWholeText) {
  for (const std::string& path : published_tokenizers()) {
    const auto tokenizer = io::load_tokenizer(path);
    for (const PasskeyGrid grid : {PasskeyGrid::Shared, PasskeyGrid::PerLength}) {
      const PasskeyTask task = make_passkey(
          *tokenizer,
          {.lengths_tokens = {300, 1024, 2048, 8192}, .depths = 5, .trials = 3, .grid = grid});
      for (size_t i = 0; i < task.trials.size(); ++i) {
        const auto whole = tokenizer->encode(text_of(task.trials[i]));
        ASSERT_EQ(tokens_of(task, i), std::vector<int64_t>(whole.begin(), whole.end()))
            << path << ", length " << task.trials[i].length_tokens;
        auto with_answer =
            tokenizer->encode(text_of(task.trials[i]) + " " + task.trials[i].passkey);
        with_answer.erase(with_answer.begin(), with_answer.begin() + int64_t(whole.size()));
        ASSERT_EQ(with_answer, task.trials[i].answer) << path;
        EXPECT_LE(task.trials[i].prompt_tokens + 8, task.trials[i].length_tokens);
      }
    }
  }
}

TEST(PasskeyPrompts, HoldTheirLengthsUnderEveryProtocolAndTokenizer) {
  for (const std::string& path : published_tokenizers()) {
    const auto tokenizer = io::load_tokenizer(path);
    for (const PasskeyProtocol protocol :
         {PasskeyProtocol::Ours, PasskeyProtocol::PaperCode, PasskeyProtocol::PaperText})
      for (const PasskeyGrid grid : {PasskeyGrid::Shared, PasskeyGrid::PerLength}) {
        const PasskeyOptions options{.lengths_tokens = {600, 1024, 3000, 16384, 1 << 20},
                                     .depths = 5,
                                     .trials = 2,
                                     .protocol = protocol,
                                     .grid = grid};
        const PasskeyTask task = make_passkey(*tokenizer, options);
        const bool ours = protocol == PasskeyProtocol::Ours;
        // One more block would not have fitted, were it not for a needle shorter than a block.
        const int64_t block = int64_t(tokenizer->encode(std::string(io::passkey::kFiller)).size());
        const int64_t slack = 2 * block + (ours ? options.max_new_tokens : 0);
        for (size_t i = 0; i < task.trials.size(); ++i) {
          const PasskeyTrial& trial = task.trials[i];
          const int64_t answer = ours ? options.max_new_tokens : 0;
          EXPECT_LE(trial.prompt_tokens + answer, trial.length_tokens) << path;
          const bool as_published = protocol == PasskeyProtocol::PaperCode;
          if (!as_published || tokenizer->kind() != "sentencepiece") {
            EXPECT_GT(trial.prompt_tokens + slack, trial.length_tokens) << path;
          }
          if (protocol != PasskeyProtocol::PaperText || trial.length_tokens > 3000)
            continue;
          const auto whole = tokenizer->encode(paper_text_of(trial));
          ASSERT_EQ(tokens_of(task, i), std::vector<int64_t>(whole.begin(), whole.end())) << path;
        }
      }
  }
}

TEST(PasskeyPrompts, HaveTheCountsOfThePublishedProtocol) {
  struct Expected {
    std::string path;
    std::vector<int64_t> blocks, tokens;  // at 1024, 2048, 4096, 8192, 65536
  };
  const Expected all[] = {{testing::package_file("rwkv/rwkv_vocab_v20230424.txt"),
                           {39, 80, 162, 326, 2620},
                           {1001, 2026, 4076, 8176, 65526}},
                          {testing::published_file("20B_tokenizer.json"),
                           {39, 80, 162, 326, 2620},
                           {1001, 2026, 4076, 8176, 65526}},
                          {testing::package_file("mistral_common/data/tokenizer.model.v1"),
                           {38, 77, 156, 313, 2519},
                           {985, 1960, 3935, 7860, 63010}}};
  for (const Expected& expected : all) {
    if (expected.path.empty())
      continue;
    const auto tokenizer = io::load_tokenizer(expected.path);
    for (const PasskeyProtocol protocol : {PasskeyProtocol::Ours, PasskeyProtocol::PaperCode}) {
      // The published code counts every text's beginning-of-text token; ours fills the length.
      if (protocol == PasskeyProtocol::Ours && tokenizer->bos())
        continue;
      const PasskeyTask task =
          make_passkey(*tokenizer, {.lengths_tokens = {1024, 2048, 4096, 8192, 65536},
                                    .depths = 1,
                                    .trials = 1,
                                    .protocol = protocol,
                                    .grid = PasskeyGrid::PerLength});
      for (size_t i = 0; i < task.trials.size(); ++i) {
        EXPECT_EQ(task.trials[i].blocks, expected.blocks[i]) << expected.path;
        // The counts hold for keys of two tokens; GPT-NeoX has keys of one and of three as well.
        const int64_t more =
            tokenizer->kind() == "neox-bpe" ? 2 * (int64_t(task.trials[i].answer.size()) - 2) : 0;
        EXPECT_EQ(task.trials[i].prompt_tokens, expected.tokens[i] + more) << expected.path;
      }
    }
  }
}

TEST(PasskeySweepSlow, FeedsFewTokens) {
  const std::string path = testing::package_file("rwkv/rwkv_vocab_v20230424.txt");
  if (path.empty())
    GTEST_SKIP() << "the Python package rwkv, which holds the World vocabulary, is not in .venv: "
                    "scripts/setup --test";
  PasskeyOptions options{.depths = 40, .trials = 5};
  for (int64_t k = 1; k <= 128; ++k)
    options.lengths_tokens.push_back(k * 1024);
  const PasskeyTask task = make_passkey(*io::load_tokenizer(path), options);
  EXPECT_EQ(task.trials.size(), 25600u);
  EXPECT_GT(task.tree.prompt_tokens(), int64_t{1'600'000'000});
  EXPECT_LE(task.tokens_to_feed(options.max_new_tokens), int64_t{40'000'000});
}

/// A journal's records by key, the summaries among them.
std::map<std::string, io::json> records_of(const std::filesystem::path& path) {
  std::map<std::string, io::json> records;
  io::read_journal(path, [&](const io::json& record, io::LinePlace) {
    records[record.at("key").get<std::string>()] = record;
  });
  return records;
}

class PasskeyRun : public ::testing::TestWithParam<std::string> {
 protected:
  at::NoGradGuard no_gradients_;
  std::unique_ptr<RecurrentLM> model_ = load_model(testing::golden_path(GetParam()));
  std::shared_ptr<const io::Tokenizer> tokenizer_ = io::load_tokenizer("bytes");
  testing::TempFolder folder_;

  std::map<std::string, io::json> run(const PasskeyOptions& options,
                                      const TreeLimits& limits,
                                      const std::string& name) {
    const PasskeyTask task = make_passkey(*tokenizer_, options);
    io::Journal journal =
        io::Journal::open(folder_.path() / name,
                          {.schema = "stuffed.passkey", .config = {{"a", 1}}, .provenance = {}});
    Checkpoint checkpoint(journal);
    const TreeCount count = run_passkey(*model_, plain_scan(), *tokenizer_, task, options, limits,
                                        journal, checkpoint, [](const PromptProgress&) {});
    EXPECT_EQ(count.tokens_fed, task.tokens_to_feed(options.max_new_tokens));
    EXPECT_LE(count.peak_states, limits.states);
    EXPECT_EQ(count.peak_states, plan_tree(task.tree, limits).peak_states);
    return records_of(folder_.path() / name);
  }
};

TEST_P(PasskeyRun, AnswersAreThoseOfEachPromptFedAlone) {
  const PasskeyOptions options{.lengths_tokens = {384, 768}, .depths = 2, .trials = 2};
  const auto together = run(options, {.states = 40, .batch = 8, .segment_tokens = 256}, "together");
  const auto narrow = run(options, {.states = 8, .batch = 1, .segment_tokens = 256}, "narrow");
  const PasskeyTask task = make_passkey(*tokenizer_, options);
  for (size_t i = 0; i < task.trials.size(); ++i) {
    std::vector<int64_t> tokens = tokens_of(task, i);
    const size_t prompt = tokens.size();
    const auto& answer = task.trials[i].answer;
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    const Tensor all = at::tensor(tokens, at::kLong).unsqueeze(0);
    const double nll = testing::segmented_nll(*model_, all, 256)
                           .narrow(0, int64_t(prompt) - 1, int64_t(answer.size()))
                           .sum()
                           .item<double>();
    State state = model_->initial_state(1);
    Tensor hidden;
    for (int64_t begin = 0; begin < int64_t(prompt); begin += 256)
      hidden = model_
                   ->forward(all.narrow(1, begin, std::min<int64_t>(256, int64_t(prompt) - begin)),
                             state)
                   .hidden;
    std::vector<int32_t> greedy;
    for (int64_t n = 0; n < options.max_new_tokens; ++n) {
      const Tensor best = testing::logits_of(*model_, hidden)[-1].argmax().view({1, 1});
      greedy.push_back(best.item<int32_t>());
      hidden = model_->forward(best, state).hidden;
    }
    for (const auto& records : {together, narrow}) {
      const io::json& record = records.at(task.trials[i].key());
      EXPECT_NEAR(record.at("answer_nll_nats").get<double>(), nll, 1e-4);
      EXPECT_EQ(record.at("prediction"), tokenizer_->decode(greedy));
      EXPECT_EQ(record.at("prompt_tokens"), prompt);
    }
  }
}

/// A trial of a length, and what its record would say.
void add_trial(std::vector<PasskeyTrial>& trials, int64_t length, int64_t trial, int64_t answer) {
  trials.push_back({.length_tokens = length, .trial = trial, .blocks = 10, .position_blocks = 3});
  trials.back().answer.resize(size_t(answer));
}

/// The summaries of 20 trials at each length; `correct` says how many are.
std::map<std::string, io::json> summaries_of(
    const std::vector<std::pair<int64_t, int64_t>>& correct,
    int64_t answer_tokens,
    int64_t cut_trials = 0) {
  testing::TempFolder folder;
  std::vector<PasskeyTrial> trials;
  io::Journal journal = io::Journal::open(
      folder / "a.jsonl", {.schema = "stuffed.passkey", .config = {{"a", 1}}, .provenance = {}});
  for (const auto& [length, right] : correct)
    for (int64_t i = 0; i < 20; ++i) {
      add_trial(trials, length, i, i < cut_trials ? 9 : answer_tokens);
      journal.append(
          trials.back().key(),
          {{"correct", i >= 20 - right}, {"exact", i >= 20 - right}, {"answer_nll_nats", 1.0}});
    }
  append_passkey_summaries(trials, {.depths = 1, .trials = 20, .max_new_tokens = 5}, journal);
  return records_of(folder / "a.jsonl");
}

TEST(PasskeySummary, TheEffectiveLengthAsksAllShorterOnesToPass) {
  const auto records = summaries_of({{1024, 20}, {2048, 20}, {3072, 10}, {4096, 20}}, 5);
  const io::json& found = records.at("summary").at("effective_length");
  EXPECT_EQ(found.at("tokens"), 2048);
  EXPECT_EQ(found.at("longest_tokens"), 4096);
  EXPECT_EQ(found.at("high_tokens"), 2048);
  EXPECT_EQ(found.at("longest_high_tokens"), 4096);
  EXPECT_EQ(found.at("low_tokens"), 0);  // 20 of 20 prove 0.84
}

TEST(PasskeySummary, AnswersThatCannotBeFoundCountInNoAccuracy) {
  const auto some = summaries_of({{1024, 12}}, 5, 4);
  EXPECT_EQ(some.at("summary").at("answers_cut"), 4);
  EXPECT_EQ(some.at("summary/len=1024").at("answers_cut"), 4);
  EXPECT_EQ(some.at("summary/len=1024").at("trials"), 16);
  EXPECT_EQ(some.at("summary/len=1024").at("accuracy"), 12.0 / 16);
  EXPECT_NEAR(some.at("summary/len=1024").at("depths")[0].at("real_depth").get<double>(), 3.0 / 9,
              1e-12);
  const auto all = summaries_of({{1024, 0}}, 6);
  EXPECT_EQ(all.at("summary").at("answers_cut"), 20);
  EXPECT_TRUE(all.at("summary/len=1024").at("accuracy").is_null());
  EXPECT_TRUE(all.at("summary/len=1024").at("depths")[0].is_null());
  EXPECT_EQ(all.at("summary").at("effective_length").at("longest_tokens"), 0);
}

TEST_P(PasskeyRun, AStateTakesTheBytesItIsSaidTo) {
  if (GetParam().starts_with("rwkv7"))
    GTEST_SKIP() << "sliding_window does not take the delta rule";
  const auto rule = build_recurrence({.mitigations = {"sliding_window:tokens=20"}});
  State state = model_->initial_state(1);
  for (int64_t read = 5; read <= 60; read += 5) {
    model_->forward(at::ones({1, 5}, at::kLong), state, *rule);
    EXPECT_EQ(state_bytes(*model_, *rule, 20, read), state.bytes()) << read;
  }
  EXPECT_EQ(state_bytes(*model_, plain_scan(), 0, 100), model_->initial_state(1).bytes());
}

TEST_P(PasskeyRun, SummariesCountTheRecords) {
  const PasskeyOptions options{.lengths_tokens = {384, 768}, .depths = 2, .trials = 2};
  const auto records = run(options, {.segment_tokens = 256}, "summary");
  const io::json& one = records.at("summary/len=768");
  EXPECT_EQ(one.at("trials"), 4);
  EXPECT_EQ(one.at("depths").size(), 2u);
  EXPECT_EQ(one.at("depths")[1].at("trials"), 2);
  EXPECT_EQ(records.at("summary").at("lengths_tokens"), io::json({384, 768}));
  EXPECT_EQ(records.at("summary").at("effective_length").at("tokens"), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    PasskeyRun,
    ::testing::Values("mamba1-hf", "mamba2-hf", "rwkv5-pth", "rwkv6-fla", "rwkv7-pth", "hgrn2-fla"),
    testing::name_of_golden);

}  // namespace
}  // namespace stuffed::eval
