#include "stuffed/eval/retention.h"

#include <cmath>
#include <limits>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "src/eval/retention/retention_summary.h"
#include "src/eval/retention/suffix_walk.h"
#include "tests/support/files.h"
#include "tests/support/golden.h"
#include "tests/support/journal.h"

namespace stuffed::eval {
namespace {

using testing::close;
using testing::expect_error;
using testing::Golden;
using testing::golden_path;
using testing::TempFolder;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(HalfLives, StartInTheFirstHalfAndAreFollowedEquallyLong) {
  for (const int64_t tokens : {2, 3, 10, 64, 1001})
    for (const int64_t starts : {1, 2, 15}) {
      const HalfLifePlan plan = plan_half_lives(tokens, starts);
      EXPECT_EQ(int64_t(plan.starts.size()), std::min(starts, tokens / 2));
      EXPECT_EQ(plan.starts.front(), 0);
      EXPECT_LT(plan.starts.back(), tokens / 2);
      EXPECT_GE(plan.followed_tokens, tokens / 2);
      EXPECT_EQ(plan.starts.back() + plan.followed_tokens, tokens - 1);
    }
}

TEST(HalfLives, AreTheUpperMedianPlusOneAndCensoredIfItIsNotReached) {
  const Tensor lived = at::tensor({0, 10, 4, 5, 10, 10, 9, 10, 3, 2, 1, 10}, at::kLong);
  const Tensor found = half_lives(lived.view({1, 4, 3}), 10);  // [L,H]; 10 is all of the interval
  EXPECT_EQ(found[0][0].item<float>(), 5);
  EXPECT_TRUE(std::isnan(found[0][1].item<float>()));
  EXPECT_TRUE(std::isnan(half_lives(at::tensor({9, 10, 10, 9}, at::kLong), 10).item<float>()));
  EXPECT_TRUE(std::isnan(half_lives(at::tensor({1, -1, 2}, at::kLong), 10).item<float>()));
  EXPECT_EQ(found[0][2].item<float>(), 10);
  EXPECT_EQ(found[0][3].item<float>(), 3);
}

TEST(HalfLives, OfALayerNameTheHeadsThatAreCensored) {
  const Tensor heads = at::tensor({7.0f, kNaN, 3.0f, kNaN, 9.0f, kNaN, kNaN, kNaN}).view({2, 4});
  const io::json found = half_life_json(heads, 15, 40);
  EXPECT_EQ(found.dump(),
            R"({"by_layer":[{"censored_heads":2,"least_tokens":3.0,"median_tokens":null,)"
            R"("most_tokens":null},{"censored_heads":3,"least_tokens":9.0,"median_tokens":null,)"
            R"("most_tokens":null}],"followed_tokens":40,"heads":4,"starts":15})");
}

struct Measure {
  explicit Measure(const std::string& name) : name(name), model(load_model(golden_path(name))) {}

  io::json operator()(RetentionOptions options, const Tensor& tokens) {
    const auto file = folder / "tokens.safetensors";
    io::write_safetensors(file, {{"tokens", tokens}});
    DecayIntervals decays;
    const auto rule = build_recurrence({.mitigations = {}, .observer = &decays});
    io::SourceOptions from;
    from.tokens = file;
    auto source = io::TokenSource::open(from, nullptr, model->config().vocab);
    auto journal = io::Journal::open(folder / "out.jsonl", {kRetentionSchema, 1, {}, {}}, true);
    options.arrays = folder / "out.safetensors";
    options.run = {{"impl", "chunked"}};
    Checkpoint checkpoint(journal);
    io::json summary =
        run_retention(*model, *rule, decays, source, options, journal, checkpoint, [](auto&) {});
    for (int i = 0; journal.done(fmt::format("document={}", i)); ++i)
      records.push_back(journal.record(fmt::format("document={}", i)));
    return summary;
  }

  TempFolder folder;
  std::string name;
  std::shared_ptr<const RecurrentLM> model;
  std::vector<io::json> records;
};

/// Log decays [T,H,K] f64 of one layer for tokens [1,T].
Tensor decays_of(const RecurrentLM& model, const Tensor& tokens, int layer) {
  struct Keep : Observer {
    explicit Keep(int which) : layer(which) {}
    void on_update(Where where, const ScanInputs& in, const LayerState&) override {
      if (where.layer == layer)
        decay = in.log_decay[0].to(at::kDouble).clone();
    }
    int layer;
    Tensor decay;
  } keep(layer);
  State state = model.initial_state(1);
  model.forward(tokens.to(at::kLong), state,
                *build_recurrence({.mitigations = {}, .observer = &keep}));
  return keep.decay;
}

TEST(Retention, RecordsHoldWhatBruteForceFinds) {
  at::NoGradGuard no_grad;
  Measure run("rwkv6-hf");
  const Tensor tokens = Golden("rwkv6-hf").get("long_tokens").narrow(1, 0, 242).view({2, 121});
  const io::json summary =
      run({.read_tokens = {120, 50}, .points = 6, .half_life_starts = 5}, tokens);
  ASSERT_EQ(run.records.size(), 2u);
  const auto arrays = io::TensorFile::open(run.folder / "out.safetensors");
  const int64_t layers = run.model->config().layers;
  Tensor by_layer = at::zeros({2, layers, 6}, at::kDouble);  // document, layer, suffix; after 120
  Tensor effrem = at::zeros({2, 6}, at::kDouble);
  const std::vector<int64_t> suffixes = log_spaced(120, 6);
  for (int64_t document = 0; document < 2; ++document) {
    const Tensor text = tokens.narrow(0, document, 1);
    for (int layer = 0; layer < layers; ++layer) {
      const Tensor decay = decays_of(*run.model, text.narrow(1, 0, 120), layer);
      for (size_t i = 0; i < suffixes.size(); ++i) {
        const int64_t n = suffixes[i];
        const Tensor weight = decay.narrow(0, 121 - n, n - 1).sum(0).exp().mean(-1);  // [H]
        by_layer[document][layer][int64_t(i)] = weight.mean();
        EXPECT_TRUE(
            close(arrays.load("surviving_weight.read=120")[document][layer].select(1, int64_t(i)),
                  weight.to(at::kFloat), 1e-5));
      }
    }
    const io::json& point = run.records[size_t(document)].at("points").at(1);
    EXPECT_EQ(point.at("suffix_tokens"), suffixes);
    EXPECT_EQ(run.records[size_t(document)].at("points").at(0).at("read_tokens"), 50);
    const auto walked =
        effective_remembrance(*run.model, plain_scan(), text, {{120, suffixes}}, 8192);
    effrem[document] = walked[0];
    const auto found = point.at("effrem").get<std::vector<double>>();
    EXPECT_TRUE(close(at::tensor(found, at::kDouble), walked[0], 1e-5));
    EXPECT_EQ(found.back(), 0);  // all of the stream is the stream
  }
  const io::json& point = summary.at("points").at(1);
  const auto flat = [](const io::json& nested) {
    std::vector<double> values;
    for (const io::json& row : nested)
      for (const io::json& value : row)
        values.push_back(value.get<double>());
    return at::tensor(values, at::kDouble);
  };
  EXPECT_TRUE(close(flat(point.at("surviving_weight_by_layer")), by_layer.mean(0).view(-1), 1e-5));
  EXPECT_TRUE(close(at::tensor(point.at("effrem").get<std::vector<double>>(), at::kDouble),
                    effrem.mean(0), 1e-5));
  EXPECT_NEAR(point.at("effrem_standard_error").at(0).get<double>(),
              (effrem.std(0) / std::sqrt(2.0))[0].item<double>(), 1e-5);
  EXPECT_EQ(summary.at("transition"), "diagonal");
  EXPECT_EQ(summary.at("half_life").at("starts"), 5);
}

TEST(Retention, HalfLivesOfHeadsAreMediansOverStarts) {
  at::NoGradGuard no_grad;
  Measure run("mamba2-hf");
  const Tensor tokens = Golden("mamba2-hf").get("long_tokens").narrow(1, 0, 201);
  run({.points = 3, .half_life_starts = 5}, tokens);
  const Tensor found =
      io::TensorFile::open(run.folder / "out.safetensors").load("half_life_tokens")[0];
  const HalfLifePlan plan = plan_half_lives(200, 5);
  int64_t ended = 0;
  for (int layer = 0; layer < run.model->config().layers; ++layer) {
    const Tensor decay = decays_of(*run.model, tokens.narrow(1, 0, 200), layer).squeeze(-1);
    for (int64_t head = 0; head < decay.size(1); ++head) {
      std::vector<int64_t> lives;
      for (const int64_t start : plan.starts) {
        double sum = 0;
        int64_t n = 1;
        for (; n <= plan.followed_tokens; ++n)
          if ((sum += decay[start + n][head].item<double>()) < std::log(0.5))
            break;
        lives.push_back(n);  // followed_tokens + 1 if it never ends
      }
      std::ranges::sort(lives);
      const float value = found[layer][head].item<float>();
      if (lives[2] > plan.followed_tokens)
        EXPECT_TRUE(std::isnan(value));
      else
        EXPECT_EQ(value, float(lives[2]));
      ended += lives[2] <= plan.followed_tokens;
    }
  }
  EXPECT_GT(ended, 0);
}

TEST(Retention, TheDeltaRulesHalfLivesAreLabelled) {
  at::NoGradGuard no_grad;
  Measure run("rwkv7-pth");
  const Tensor tokens = Golden("rwkv7-pth").get("long_tokens").narrow(1, 0, 41);
  EXPECT_EQ(run({.points = 3, .half_life_starts = 3}, tokens).at("transition"), "diagonal part");
  EXPECT_EQ(run.records.at(0).at("transition"), "diagonal part");
}

TEST(Retention, DocumentsThatCannotBeMeasuredAreRefused) {
  at::NoGradGuard no_grad;
  Measure run("mamba2-hf");
  const Tensor tokens = at::zeros({1, 31}, at::kLong);
  expect_error(Error::Kind::Input, {"30 targets", "40 tokens"},
               [&] { run({.read_tokens = {40}}, tokens); });
  expect_error(Error::Kind::Usage, {"suffix of 31"}, [&] { run({.suffixes = {31}}, tokens); });
  expect_error(Error::Kind::Input, {"1 targets"}, [&] { run({}, tokens.narrow(1, 0, 2)); });
  expect_error(Error::Kind::Usage, {"at least 2 tokens"},
               [&] { run({.read_tokens = {1}}, tokens); });
}

TEST(RetentionArrays, AMissingPartialFileIsSaidToBeMissing) {
  TempFolder folder;
  RetentionArrays arrays(folder / "a.safetensors", testing::begin_journal(folder.path()));
  arrays.save(0, {{"x", at::ones({2})}});
  arrays.keep(1);
  expect_error(Error::Kind::Input, {"document=1", "--overwrite"}, [&] { arrays.keep(2); });
  arrays.save(1, {{"x", at::zeros({2})}});
  arrays.finish(2, {});
  arrays.remove_partial();
  EXPECT_FALSE(std::filesystem::exists(folder / "a.safetensors.partial"));
  EXPECT_TRUE(at::equal(io::TensorFile::open(folder / "a.safetensors").load("x"),
                        at::tensor({1.0f, 1.0f, 0.0f, 0.0f}).view({2, 2})));
}

}  // namespace
}  // namespace stuffed::eval
