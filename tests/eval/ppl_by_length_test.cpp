#include "stuffed/eval/ppl_by_length.h"

#include <cmath>
#include <limits>
#include <numbers>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "tests/support/files.h"
#include "tests/support/golden.h"

namespace stuffed::eval {
namespace {

using testing::close;
using testing::expect_error;
using testing::Golden;
using testing::golden_path;
using testing::TempFolder;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

TEST(CollapseOnset, IsTheFirstWholeBucketBeyondTrainingAboveTwiceTheLargestInside) {
  const std::vector<double> means = {1, 3, 2, 2, 5.9, 6, 6.1, 2};
  const io::json found = collapse_onset(means, 10, 80, 40);
  EXPECT_EQ(found.at("baseline_nll_nats"), 3);  // the largest, not the mean
  EXPECT_EQ(found.at("onset_tokens"), 60);      // 6 is twice the baseline, and does not exceed it
  EXPECT_EQ(found.at("train_len_tokens"), 40);
}

TEST(CollapseOnset, IsNullOnlyAfterEightTrainingLengths) {
  std::vector<double> means(32, 2.0);
  EXPECT_TRUE(collapse_onset(means, 10, 320, 40).at("onset_tokens").is_null());
  EXPECT_EQ(collapse_onset(means, 10, 319, 40).at("onset_tokens"), "unknown");
  means[30] = 9;  // a collapse that was seen is one, however short the stream
  EXPECT_EQ(collapse_onset(means, 10, 319, 40).at("onset_tokens"), 300);
}

TEST(CollapseOnset, LooksAtWholeBucketsOnly) {
  const std::vector<double> means = {1, 1, 1, 1, 1, 9, 1, 9};
  // Training length 45: buckets 0 to 3 lie inside, bucket 4 across the border counts for neither.
  EXPECT_EQ(collapse_onset(means, 10, 80, 45).at("onset_tokens"), 50);
  const std::vector<double> across = {1, 1, 1, 1, 9, 1, 1, 9};
  EXPECT_EQ(collapse_onset(across, 10, 80, 45).at("baseline_nll_nats"), 1);
  EXPECT_EQ(collapse_onset(across, 10, 80, 45).at("onset_tokens"), 70);
  EXPECT_EQ(collapse_onset(across, 10, 79, 45).at("onset_tokens"), "unknown");  // 70..78 is torn
}

TEST(CollapseOnset, NotFiniteExceedsEveryBoundAndIsNoBaseline) {
  EXPECT_EQ(collapse_onset({1, 1, 1, 1, 1, kNaN}, 10, 60, 40).at("onset_tokens"), 50);
  EXPECT_EQ(collapse_onset({1, 1, 1, 1, std::numeric_limits<double>::infinity()}, 10, 50, 40)
                .at("onset_tokens"),
            40);
  const io::json found = collapse_onset({1, kNaN, 1, 1, 9, 9}, 10, 60, 40);
  EXPECT_TRUE(found.at("baseline_nll_nats").is_null());
  EXPECT_EQ(found.at("onset_tokens"), "unknown");
  // A stream that ends inside the first bucket has no baseline either.
  EXPECT_EQ(collapse_onset({1}, 10, 9, 40).at("onset_tokens"), "unknown");
}

TEST(CollapseOnset, ABucketAboveAQuarterOfTheTrainingLengthIsUsage) {
  EXPECT_NO_THROW(collapse_onset({1, 1, 1, 1}, 10, 40, 40));
  expect_error(Error::Kind::Usage, {"--bucket 11", "40"}, [] {
    collapse_onset({1, 1, 1, 1}, 11, 40, 40);
  });
}

PplByLengthOptions buckets_of(int64_t bucket, std::optional<int64_t> train_len = {}) {
  PplByLengthOptions options;
  options.bucket = bucket;
  options.train_len = train_len;
  return options;
}

/// Scores documents of mamba2-hf, journal and sidecar in a folder of their own.
struct Scored {
  explicit Scored(io::SourceOptions from,
                  PplByLengthOptions options,
                  std::shared_ptr<const io::Tokenizer> tokenizer = nullptr) {
    model = load_model(golden_path("mamba2-hf"));
    auto source = io::TokenSource::open(from, tokenizer, model->config().vocab);
    auto journal = io::Journal::open(folder / "out.jsonl", {kPplByLengthSchema, 1, {}, {}});
    options.per_token = folder / "nll.safetensors";
    Checkpoint checkpoint(journal);
    summary = run_ppl_by_length(*model, plain_scan(), source, tokenizer.get(), options, journal,
                                checkpoint, [](const Progress&) {});
    for (int i = 0; journal.done(fmt::format("document={}", i)); ++i)
      records.push_back(journal.record(fmt::format("document={}", i)));
    nll = io::TensorFile::open(folder / "nll.safetensors").load("nll").clone();
  }

  TempFolder folder;
  std::shared_ptr<const RecurrentLM> model;
  io::json summary;
  std::vector<io::json> records;
  Tensor nll;
};

io::SourceOptions token_file(const TempFolder& folder, const Tensor& tokens) {
  io::SourceOptions from;
  from.tokens = folder / "tokens.safetensors";
  io::write_safetensors(from.tokens, {{"tokens", tokens}});
  return from;
}

TEST(PplByLength, BucketsSumTheLossesUpstreamComputed) {
  at::NoGradGuard no_grad;
  TempFolder folder;
  const Golden golden("mamba2-hf");
  const Tensor tokens = golden.get("long_tokens").narrow(1, 0, 201);
  const Tensor expected = golden.get("long_nll").narrow(0, 0, 200).to(at::kDouble);
  for (const int64_t segment : {8192, 37}) {
    PplByLengthOptions options = buckets_of(48);
    options.segment = segment;
    const Scored run(token_file(folder, tokens), options);
    EXPECT_TRUE(close(run.nll[0].to(at::kDouble), expected, 1e-5));
    const auto sums = run.records.at(0).at("nll_sum_nats").get<std::vector<double>>();
    ASSERT_EQ(sums.size(), 5u);  // 48 x 4, and 8 more
    for (size_t b = 0; b < sums.size(); ++b) {
      const int64_t begin = int64_t(b) * 48, end = std::min<int64_t>(begin + 48, 200);
      const Tensor own = run.nll[0].slice(0, begin, end).to(at::kDouble).sum();
      EXPECT_NEAR(sums[b], own.item<double>(), 1e-9 * sums[b]);
      EXPECT_NEAR(run.summary.at("mean_nll_nats").at(b).get<double>(),
                  sums[b] / double(end - begin), 1e-9 * sums[b]);
      EXPECT_EQ(run.summary.at("targets").at(b), end - begin);
    }
    EXPECT_NEAR(run.summary.at("running_mean_nll_nats").back().get<double>(),
                run.nll.mean(at::kDouble).item<double>(), 1e-9);
    EXPECT_TRUE(run.summary.at("standard_error_nats").at(0).is_null());  // one document
    EXPECT_FALSE(run.records[0].contains("text_bytes"));                 // no tokenizer
  }
}

TEST(PplByLength, DocumentsOfUnequalLengthAreWeighedByTheirTargets) {
  at::NoGradGuard no_grad;
  TempFolder folder;
  io::SourceOptions from;
  from.text = {folder.write("a.txt", std::string(70, 'a') + "tail"),
               folder.write("b.txt", "A shorter text of fifty-one bytes, all of them ASCII")};
  const Scored run(from, buckets_of(30), io::load_tokenizer("bytes"));
  const int64_t lengths[] = {73, 51};
  ASSERT_EQ(run.nll.sizes(), (at::IntArrayRef{2, 73}));
  EXPECT_TRUE(run.nll[1].narrow(0, 51, 22).isnan().all().item<bool>());  // padding
  EXPECT_TRUE(run.nll[1].narrow(0, 0, 51).isfinite().all().item<bool>());
  for (int64_t b = 0; b < 3; ++b) {
    double sum = 0;
    int64_t targets = 0;
    for (int64_t document = 0; document < 2; ++document) {
      const int64_t begin = std::min(b * 30, lengths[document]);
      const int64_t end = std::min(begin + 30, lengths[document]);
      sum += run.nll[document].slice(0, begin, end).sum(at::kDouble).item<double>();
      targets += end - begin;
    }
    EXPECT_EQ(run.summary.at("targets").at(size_t(b)), targets);
    EXPECT_NEAR(run.summary.at("mean_nll_nats").at(size_t(b)).get<double>(), sum / double(targets),
                1e-9);
    EXPECT_NEAR(run.summary.at("bits_per_byte").at(size_t(b)).get<double>(),
                sum / std::numbers::ln2 / double(targets), 1e-9);  // a token is a byte
  }
  EXPECT_EQ(run.summary.at("length_tokens"), 73);
  EXPECT_EQ(run.records.at(1).at("text_bytes"), (std::vector<int64_t>{30, 21}));
}

TEST(PplByLength, PackedDocumentsAndSkippedOnesAreRecorded) {
  at::NoGradGuard no_grad;
  TempFolder folder;
  io::SourceOptions from;
  from.text = {folder.write("a.txt", std::string(30, 'a')), folder.write("b.txt", "short"),
               folder.write("c.txt", std::string(40, 'c'))};
  from.length = 25;
  from.when_short = io::Short::Skip;
  const auto tokenizer = io::load_tokenizer("bytes");
  const Scored skipped(from, buckets_of(5), tokenizer);
  EXPECT_EQ(skipped.records.size(), 2u);
  EXPECT_EQ(skipped.summary.at("skipped").dump(), R"([{"name":"b.txt","targets":4}])");
  EXPECT_FALSE(skipped.records[0].contains("boundaries"));
  from.when_short = io::Short::Pack;
  const Scored packed(from, buckets_of(5), tokenizer);
  EXPECT_EQ(packed.records.size(), 2u);  // 75 bytes are 2 x 26 and 23 left
  EXPECT_EQ(packed.summary.at("leftover_tokens"), 23);
  EXPECT_EQ(packed.records[1].at("boundaries").dump(),
            R"([{"name":"a.txt","position":0},{"name":"b.txt","position":4},)"
            R"({"name":"c.txt","position":9}])");
}

TEST(PplByLength, TheOnsetIsInTheSummaryIfATrainingLengthIsGiven) {
  at::NoGradGuard no_grad;
  TempFolder folder;
  const Tensor tokens = Golden("mamba2-hf").get("long_tokens").narrow(1, 0, 161);
  const auto from = token_file(folder, tokens);
  const Scored run(from, buckets_of(5, 20));
  const auto means = run.summary.at("mean_nll_nats").get<std::vector<double>>();
  EXPECT_EQ(run.summary.at("collapse"), collapse_onset(means, 5, 160, 20));
  EXPECT_FALSE(Scored(from, buckets_of(5)).summary.contains("collapse"));
  expect_error(Error::Kind::Usage, {"--bucket 6"}, [&] { Scored(from, buckets_of(6, 20)); });
}

}  // namespace
}  // namespace stuffed::eval
