#include "stuffed/eval/retrieval.h"

#include <fstream>
#include <regex>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "src/eval/retrieval/haystack.h"
#include "stuffed/core/error.h"
#include "stuffed/io/needle_text.h"
#include "tests/io/tokenizer_support.h"
#include "tests/support/files.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

constexpr RetrievalKind kNiah[] = {RetrievalKind::NiahSingle, RetrievalKind::NiahMultikey,
                                   RetrievalKind::NiahMultivalue, RetrievalKind::NiahMultiquery};

std::vector<int32_t> tokens_of(const RetrievalTask& task, size_t trial) {
  const Prompt& prompt = task.tree.prompts()[trial];
  std::vector<int64_t> tokens(size_t(token_count(task.tree.blocks(), prompt)));
  write_tokens(task.tree.blocks(), prompt, 0, int64_t(tokens.size()), tokens.data());
  return {tokens.begin(), tokens.end()};
}

TEST(RetrievalText, SentencesAreTheTextAgain) {
  const auto sentences = sentences_of("  One (two.)  Three\n\nfour! \"Five?\" six");
  EXPECT_EQ(sentences,
            (std::vector<std::string>{"One (two.)", " Three four!", " \"Five?\"", " six"}));
  EXPECT_TRUE(sentences_of(" \n ").empty());
}

TEST(RetrievalText, QuestionsAreWordedAsPublished) {
  const std::string one[] = {"ample-anchor"}, two[] = {"a-b", "c-d"}, three[] = {"a", "b", "c"};
  namespace text = io::needles;
  EXPECT_EQ(text::needle("numbers", one[0], "1234567"),
            "One of the special magic numbers for ample-anchor is: 1234567.");
  const text::Frame single = text::frame("numbers", one, true);
  EXPECT_EQ(single.head,
            "A special magic number is hidden within the following text. Make sure to memorize it. "
            "I will quiz you about the number afterwards.\n");
  EXPECT_EQ(single.question,
            "What is the special magic number for ample-anchor mentioned in the provided text? The "
            "special magic number for ample-anchor mentioned in the provided text is");
  const text::Frame several = text::frame("uuids", two, false);
  EXPECT_EQ(several.head,
            "Some special magic uuids are hidden within the following text. Make sure to memorize "
            "it. I will quiz you about the uuids afterwards.\n");
  EXPECT_EQ(several.question,
            "What are all the special magic uuids for a-b, and c-d mentioned in the provided text? "
            "The special magic uuids for a-b, and c-d mentioned in the provided text are");
  EXPECT_EQ(text::listed(three), "a, b, and c");
}

TEST(RetrievalText, DrawsAreOfTheirKinds) {
  Rng rng(0, "kinds");
  const std::pair<const char*, std::regex> kinds[] = {
      {"words", std::regex("[a-z]+-[a-z]+")},
      {"numbers", std::regex("[1-9][0-9]{6}")},
      {"uuids", std::regex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")}};
  for (const auto& [kind, form] : kinds)
    for (int i = 0; i < 100; ++i)
      EXPECT_TRUE(std::regex_match(io::needles::draw(rng, kind), form)) << kind;
}

TEST(RetrievalText, StringsAreFoundWhateverTheirCase) {
  EXPECT_EQ(strings_found("The KITCHEN, then 12.", {"kitchen", "12", "13"}),
            (std::vector<bool>{true, true, false}));
}

/// A text of different sentences.
std::filesystem::path write_text(const testing::TempFolder& folder, int sentences) {
  const std::filesystem::path path = folder / "text.txt";
  std::ofstream file(path);
  for (int i = 0; i < sentences; ++i)
    file << "Sentence " << i << " of them says (so) \"it\" 's " << i * i % 97 << " long.\n\n";
  return path;
}

/// The tokenizers of the published models, where they are installed.
std::vector<std::string> tokenizers() {
  std::vector<std::string> found{"bytes"};
  for (const std::string& path : {testing::package_file("rwkv/rwkv_vocab_v20230424.txt"),
                                  testing::published_file("20B_tokenizer.json"),
                                  testing::package_file("mistral_common/data/tokenizer.model.v1")})
    if (!path.empty())
      found.push_back(path);
  return found;
}

TEST(RetrievalPrompts, AssembledTokensAreThoseOfTheWholeText) {
  const testing::TempFolder folder;
  const std::filesystem::path text = write_text(folder, 2000);
  for (const std::string& path : tokenizers()) {
    const auto tokenizer = io::load_tokenizer(path);
    for (const RetrievalKind kind : kNiah)
      for (const std::filesystem::path& haystack : {std::filesystem::path(), text}) {
        const RetrievalTask task = make_retrieval(tokenizer.get(), {.kind = kind,
                                                                    .lengths_tokens = {1500, 8192},
                                                                    .depths = 4,
                                                                    .trials = 2,
                                                                    .text = haystack});
        for (size_t i = 0; i < task.trials.size(); ++i) {
          const RetrievalTrial& trial = task.trials[i];
          const std::vector<int32_t> tokens = tokens_of(task, i);
          std::string whole = tokenizer->decode_bytes(tokens);
          whole.erase(0, whole.find("special") - (whole.find("Some") == whole.npos ? 2 : 5));
          EXPECT_EQ(tokens, tokenizer->encode(whole)) << path;
          EXPECT_LE(trial.prompt_tokens + 128, trial.length_tokens) << path;
          EXPECT_GT(trial.prompt_tokens + 128 + 120, trial.length_tokens) << path;
          for (const std::string& expected : trial.expected)
            EXPECT_NE(whole.find(" is: " + expected + "."), whole.npos);
        }
      }
  }
}

TEST(RetrievalPrompts, TextIsNotRepeated) {
  const testing::TempFolder folder;
  const auto tokenizer = io::load_tokenizer("bytes");
  try {
    make_retrieval(tokenizer.get(), {.lengths_tokens = {8192}, .text = write_text(folder, 20)});
    FAIL() << "a text of 20 sentences has no 8192 tokens";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Usage);
    EXPECT_NE(std::string(error.what()).find("not repeated"), std::string::npos);
  }
}

TEST(RetrievalPrompts, LengthsShareWhatTheyCan) {
  const auto tokenizer = io::load_tokenizer("bytes");
  for (const RetrievalKind kind : kNiah) {
    const RetrievalTask task = make_retrieval(
        tokenizer.get(),
        {.kind = kind, .lengths_tokens = {20480, 24576, 28672}, .depths = 8, .trials = 4});
    EXPECT_LT(5 * task.tree.tree_tokens(), 4 * task.tree.prompt_tokens());
  }
}

class RetrievalRun : public ::testing::TestWithParam<std::string> {
 protected:
  at::NoGradGuard no_gradients_;
  std::unique_ptr<RecurrentLM> model_ = load_model(testing::golden_path(GetParam()));
  std::shared_ptr<const io::Tokenizer> tokenizer_ = io::load_tokenizer("bytes");
  testing::TempFolder folder_;

  std::map<std::string, io::json> run(const RetrievalTask& task, const RetrievalOptions& options) {
    const TreeLimits limits{.states = 40, .batch = 8, .segment_tokens = 256};
    const std::filesystem::path path = folder_ / "run.jsonl";
    io::Journal journal = io::Journal::open(
        path, {.schema = "stuffed.retrieval", .config = {{"a", 1}}, .provenance = {}}, true);
    Checkpoint checkpoint(journal);
    const TreeCount count =
        run_retrieval(*model_, plain_scan(), tokenizer_.get(), task, options, limits, journal,
                      checkpoint, [](const PromptProgress&) {});
    EXPECT_EQ(count.tokens_fed,
              task.tokens_to_feed(is_recall(options.kind) ? 0 : options.max_new_tokens));
    std::map<std::string, io::json> records;
    io::read_journal(path, [&](const io::json& record, io::LinePlace) {
      records[record.at("key").get<std::string>()] = record;
    });
    return records;
  }

  /// Logits after each of the tokens, fed alone and a segment at a time.
  Tensor logits_alone(const std::vector<int32_t>& tokens) {
    const Tensor all = at::tensor(tokens, at::kInt).to(at::kLong).unsqueeze(0);
    State state = model_->initial_state(1);
    std::vector<Tensor> rows;
    for (int64_t begin = 0; begin < all.size(1); begin += 256)
      rows.push_back(testing::logits_of(
          *model_,
          model_->forward(all.narrow(1, begin, std::min<int64_t>(256, all.size(1) - begin)), state)
              .hidden));
    return at::cat(rows, 0);
  }
};

TEST_P(RetrievalRun, NeedlesAreAnsweredAsByThePromptFedAlone) {
  const RetrievalOptions options{.kind = RetrievalKind::NiahMultiquery,
                                 .lengths_tokens = {1024, 1280},
                                 .depths = 2,
                                 .trials = 1,
                                 .max_new_tokens = 24,
                                 .needles = 2};
  const RetrievalTask task = make_retrieval(tokenizer_.get(), options);
  const auto records = run(task, options);
  for (size_t i = 0; i < task.trials.size(); ++i) {
    const io::json& record = records.at(task.trials[i].key());
    std::vector<int32_t> tokens = tokens_of(task, i);
    const auto prompt = std::ssize(tokens);
    const auto& answer = task.trials[i].answer;
    tokens.insert(tokens.end(), answer.begin(), answer.end());
    const Tensor losses = -logits_alone(tokens).log_softmax(-1);
    double nll = 0;
    for (size_t j = 0; j < answer.size(); ++j)
      nll += losses[prompt - 1 + int64_t(j)][answer[j]].item<double>();
    EXPECT_NEAR(record.at("answer_nll_nats").get<double>(), nll, 1e-3);
    EXPECT_EQ(record.at("total_tokens"), prompt + 24);
  }
}

TEST_P(RetrievalRun, RecallIsScoredAsByTheStreamFedAlone) {
  for (const int64_t updates : {0, 3}) {
    const RetrievalOptions options{
        .kind = updates == 0 ? RetrievalKind::Mqar : RetrievalKind::MqarForget,
        .lengths_tokens = {96, 160},
        .depths = 2,
        .trials = 1,
        .recall = {.pairs = 6, .queries = 4, .updates = updates, .gap = 2, .vocabulary = 64}};
    const RetrievalTask task = make_retrieval(nullptr, options);
    const auto records = run(task, options);
    for (size_t i = 0; i < task.trials.size(); ++i) {
      const RetrievalTrial& trial = task.trials[i];
      const io::json& record = records.at(trial.key());
      std::vector<int32_t> tokens = tokens_of(task, i);
      const auto prompt = std::ssize(tokens);
      tokens.insert(tokens.end(), trial.answer.begin(), trial.answer.end());
      ASSERT_EQ(std::ssize(tokens), trial.length_tokens);
      const Tensor logits = logits_alone(tokens);
      int64_t right = 0;
      for (size_t j = 0; j < trial.scored.size(); ++j) {
        const Tensor row = logits[prompt - 1 + trial.scored[j]];
        const auto value = trial.answer[size_t(trial.scored[j])];
        right += row.argmax().item<int64_t>() == value;
        EXPECT_EQ(record.at("prediction")[j], row.argmax().item<int64_t>());
        EXPECT_EQ(record.at("answers")[j], value);
      }
      EXPECT_EQ(record.at("score"), double(right) / 4);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families,
    RetrievalRun,
    ::testing::Values("mamba1-hf", "mamba2-hf", "rwkv5-pth", "rwkv6-fla", "rwkv7-pth", "hgrn2-fla"),
    testing::name_of_golden);

TEST(RetrievalRecall, LaterValuesCount) {
  Rng rng(3, "recall");
  const io::RecallOptions options{.pairs = 8, .queries = 8, .updates = 4, .vocabulary = 64};
  const io::RecallSample sample = io::draw_recall(rng, options);
  std::map<int32_t, int32_t> last;
  for (size_t i = 0; i < sample.context.size(); i += 2) {
    EXPECT_EQ(i >= 16, last.contains(sample.context[i]));
    last[sample.context[i]] = sample.context[i + 1];
  }
  EXPECT_EQ(std::ranges::count(sample.is_updated, true), 4);
  for (size_t i = 0; i < 8; ++i)
    EXPECT_EQ(last.at(sample.queries[i]), sample.answers[i]);
}

TEST(RetrievalRecall, AVocabularyThatIsTooSmallIsRefused) {
  EXPECT_THROW(io::check_recall({.pairs = 8, .queries = 8, .vocabulary = 16}), Error);
  EXPECT_NO_THROW(io::check_recall({.pairs = 8, .queries = 8, .vocabulary = 18}));
  EXPECT_THROW(io::check_recall({.pairs = 8, .queries = 9, .vocabulary = 64}), Error);
}

}  // namespace
}  // namespace stuffed::eval
