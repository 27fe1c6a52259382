// state-stats against a plain recomputation in f64 from the inputs and states of the same run, for
// every family; and what an observer must not change.
#include "stuffed/eval/state_stats.h"

#include <cmath>
#include <stdexcept>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "src/eval/state_stats/state_observer.h"
#include "stuffed/eval/stream.h"
#include "support/files.h"
#include "support/golden.h"

namespace stuffed::eval {
namespace {

using testing::bitwise_equal;
using testing::close;
using testing::golden_path;

const std::array kLayouts = {"mamba2-hf", "mamba1-hf", "hgrn2-fla",
                             "rwkv5-pth", "rwkv6-hf",  "rwkv7-pth"};
constexpr int64_t kStride = 16, kTokens = 50, kSamples = 3;

Tensor tokens_of(const std::string& layout) {
  return testing::Golden(layout).get("tokens").narrow(1, 0, kTokens + 1);
}

std::shared_ptr<const Recurrence> rule_of(Observer* observer, Impl impl = Impl::Auto) {
  return build_recurrence({.mitigations = {}, .impl = impl, .observer = observer});
}

/// Keeps all there is, in f64: log decay and inputs of every token, the state after each update.
struct Recorder : Observer {
  struct Update {
    int64_t end;
    std::map<std::string, Tensor> inputs;  // [T,H,N]
    Tensor log_decay, state;               // [T,H,K|1]; [H,K,V]
  };
  std::map<int, std::vector<Update>> layers;
  Observer* next = nullptr;

  void on_update(Where where, const ScanInputs& in, const LayerState& after) override {
    const auto keep = [](const Tensor& x) { return x.select(0, 0).to(at::kDouble).clone(); };
    Update update{.end = where.position + in.q.size(1),
                  .inputs = {{"q", keep(in.q)}, {"k", keep(in.k)}, {"v", keep(in.v)}},
                  .log_decay = {},
                  .state = keep(after.recurrent)};
    update.log_decay = in.factored_decay ? keep(in.factored_decay->step).unsqueeze(-1) *
                                                   in.factored_decay->rate.to(at::kDouble) +
                                               in.factored_decay->offset
                                         : keep(in.log_decay);
    if (in.v_scale)
      update.inputs["dt"] = keep(*in.v_scale).unsqueeze(-1);
    if (in.erase) {
      update.inputs["erase_read"] = keep(in.erase->read);
      update.inputs["erase_write"] = keep(in.erase->write);
    }
    layers[where.layer].push_back(update);
    if (next != nullptr)
      next->on_update(where, in, after);
  }

  /// Everything of (begin, end] joined along the tokens.
  Tensor input(int layer, const std::string& name, int64_t begin, int64_t end) const {
    std::vector<Tensor> parts;
    for (const Update& update : layers.at(layer))
      if (update.end > begin && update.end <= end)
        parts.push_back(name == "log_decay" ? update.log_decay : update.inputs.at(name));
    return at::cat(parts);
  }
  Tensor state(int layer, int64_t position) const {
    for (const Update& update : layers.at(layer))
      if (update.end == position)
        return update.state;
    throw std::out_of_range("no update ends there");
  }
};

std::map<std::string, Tensor> observe(const RecurrentLM& model,
                                      const Tensor& tokens,
                                      int64_t segment,
                                      const StateStatsOptions& options,
                                      Impl impl,
                                      Recorder* recorder = nullptr) {
  StateObserver observer(model, options,
                         resolve_indices(options.layers, model.config().layers, "--layers"),
                         resolve_indices(options.heads, model.config().heads, "--heads"));
  Observer* outer = &observer;
  if (recorder != nullptr) {
    recorder->next = &observer;
    outer = recorder;
  }
  const auto rule = rule_of(outer, impl);
  State state = model.initial_state(1);
  stream(
      model, *rule, tokens, state, segment,
      [&](const Segment& piece) {
        const int64_t end = piece.begin + piece.inputs.size(1);
        if (end % options.stride == 0)
          observer.end_sample(end);
      },
      options.stride);
  const NamedTensors arrays = observer.take();
  return {arrays.begin(), arrays.end()};
}

/// What a statistic of one head is by its definition.
double defined_as(const std::string& name, const Tensor& state) {
  const Tensor x = state.reshape(-1);
  const double n = static_cast<double>(x.numel()), mean = x.sum().item<double>() / n;
  if (name == "mean")
    return mean;
  if (name == "variance")
    return (x - mean).square().sum().item<double>() / (n - 1);
  if (name == "rms")
    return std::sqrt(x.square().sum().item<double>() / n);
  if (name == "max")
    return x.max().item<double>();
  if (name == "max_abs")
    return x.abs().max().item<double>();
  if (name == "median")
    return std::get<0>(x.sort())[(x.numel() - 1) / 2].item<double>();
  if (name == "norm")
    return std::sqrt(x.square().sum().item<double>());
  const Tensor sigma = at::linalg_svdvals(state), p = sigma / sigma.sum();  // rank
  return std::exp(-at::xlogy(p, p).sum().item<double>());
}

TEST(StateStats, EqualTheirDefinitionsInEveryFamily) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    const auto model = load_model(golden_path(layout));
    Recorder run;
    const auto arrays =
        observe(*model, tokens_of(layout), 24, {.stride = kStride}, Impl::Reference, &run);
    const int64_t L = model->config().layers, H = model->config().heads;
    const int64_t checked = std::min<int64_t>(H, 4);
    for (int64_t s = 0; s < kSamples; ++s)
      for (int64_t l = 0; l < L; ++l) {
        const int64_t end = (s + 1) * kStride;
        const auto layer = static_cast<int>(l);
        const Tensor state = run.state(layer, end);
        for (const auto& [name, array] : arrays) {
          const std::string what = layout + " " + name;
          if (name.ends_with(".layer_mean") || name.ends_with(".layer_variance")) {
            ASSERT_EQ(array.sizes(), (std::vector<int64_t>{kSamples, L})) << what;
            continue;
          }
          ASSERT_EQ(array.sizes(), (std::vector<int64_t>{kSamples, L, H})) << what;
          const std::string input = name.substr(0, name.find('.')),
                            statistic = name.substr(name.find('.') + 1);
          for (int64_t h = 0; h < checked; ++h) {
            double expected = 0;
            if (input == "state") {
              expected = defined_as(statistic, state[h]);
            } else if (input == "log_decay") {
              const Tensor all = run.input(layer, input, 0, end).select(1, h);
              const Tensor last = all.narrow(0, end - kStride, kStride);
              expected = statistic == "mean"         ? last.mean().item<double>()
                         : statistic == "cumulative" ? all.sum(0).mean().item<double>()
                                                     : all.sum(0).max().item<double>();
            } else if (input == "alpha") {
              const Tensor all = run.input(layer, "log_decay", end - kStride, end).select(1, h);
              expected = all.exp().mean().item<double>();
            } else {
              const Tensor x = run.input(layer, input, end - kStride, end).select(1, h);  // [T,N]
              if (statistic == "variance" && x.size(1) == 1) {
                EXPECT_TRUE(std::isnan(array[s][l][h].item<double>())) << what;
                continue;
              }
              expected = statistic == "mean"
                             ? x.mean().item<double>()
                             : at::var(x, at::OptionalIntArrayRef(1), 1).mean().item<double>();
            }
            const double bound = statistic == "rank" ? 1e-6 : 1e-11;
            EXPECT_NEAR(array[s][l][h].item<double>(), expected,
                        bound * std::max(std::abs(expected), 1e-3))
                << what << " head " << h;
          }
        }
        for (const auto& [name, x] : run.layers.at(layer).front().inputs) {
          // Over all channels of the layer; Mamba's B and C are one vector for all heads.
          const bool shared = layout.starts_with("mamba") && (name == "q" || name == "k");
          Tensor all = run.input(layer, name, end - kStride, end);
          all = (shared ? all.narrow(1, 0, 1) : all).flatten(1);
          const Tensor variance = at::var(all, at::OptionalIntArrayRef(1), 1).mean();
          EXPECT_TRUE(close(arrays.at(name + ".layer_mean")[s][l], all.mean(), 1e-9)) << name;
          EXPECT_TRUE(close(arrays.at(name + ".layer_variance")[s][l], variance, 1e-11)) << name;
        }
      }
    EXPECT_TRUE(arrays.contains("state.rank") && arrays.contains("alpha.mean")) << layout;
    EXPECT_EQ(arrays.contains("dt.mean"), layout.starts_with("mamba"));
    EXPECT_EQ(arrays.contains("erase_write.mean"), layout.starts_with("rwkv7"));
  }
}

TEST(StateStats, DoNotDependOnTheSegment) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    const auto model = load_model(golden_path(layout));
    const StateStatsOptions options = {.stride = kStride, .histogram_at = {}};
    const auto expected = observe(*model, tokens_of(layout), 1000, options, Impl::Auto);
    for (const int64_t segment : {7, 16, 20}) {
      const auto actual = observe(*model, tokens_of(layout), segment, options, Impl::Auto);
      ASSERT_EQ(actual.size(), expected.size());
      for (const auto& [name, array] : expected) {
        // Elements around 0 cancel in these two: their errors are to be seen against the elements.
        const bool cancels = name == "state.mean" || name == "state.median";
        const Tensor scale = expected.at("state.rms");
        EXPECT_TRUE(cancels ? close(actual.at(name) - array + scale, scale, 1e-5)
                            : close(actual.at(name).nan_to_num(), array.nan_to_num(), 1e-5))
            << layout << " " << name << " segment " << segment;
      }
    }
  }
}

TEST(StateStats, ChangeNoBitAtEqualCutsAndLittleAtOthers) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    const auto model = load_model(golden_path(layout));
    const auto run = [&](Observer* observer, int64_t stride) {
      const auto rule = rule_of(observer);
      State state = model->initial_state(1);
      std::vector<Tensor> hidden;
      stream(
          *model, *rule, tokens_of(layout), state, 24,
          [&](const Segment& segment) { hidden.push_back(segment.out.hidden); }, stride);
      return std::pair(at::cat(hidden, 1), state.layers.back().recurrent);
    };
    StateObserver observer(*model, {.stride = kStride}, {0, 1},
                           resolve_indices({}, model->config().heads, ""));
    const auto plain = run(nullptr, kStride), observed = run(&observer, kStride),
               uncut = run(nullptr, 0);
    EXPECT_TRUE(bitwise_equal(observed.first, plain.first)) << layout;
    EXPECT_TRUE(bitwise_equal(observed.second, plain.second)) << layout;
    EXPECT_TRUE(close(observed.first, uncut.first, 1e-5)) << layout;
    EXPECT_TRUE(close(observed.second, uncut.second, 1e-5)) << layout;
  }
}

TEST(StateStats, ASelectionIsWhatAllOfThemHold) {
  at::NoGradGuard no_grad;
  const auto model = load_model(golden_path("mamba1-hf"));
  const Tensor tokens = tokens_of("mamba1-hf");
  const auto all = observe(*model, tokens, 24, {.stride = kStride}, Impl::Auto);
  const auto some =
      observe(*model, tokens, 24,
              {.stride = kStride, .layers = {1}, .heads = {5, 2}, .rank = false}, Impl::Auto);
  EXPECT_FALSE(some.contains("state.rank"));
  for (const auto& [name, array] : some) {
    const Tensor expected = all.at(name).narrow(1, 1, 1);
    EXPECT_TRUE(bitwise_equal(
        array.nan_to_num(),
        (array.dim() == 3 ? expected.index_select(2, at::tensor({2, 5})) : expected).nan_to_num()))
        << name;
  }
}

// ---- whole states ----

TEST(StateDump, HoldsStatesAndGatesAtItsPositionsInEveryFamily) {
  at::NoGradGuard no_grad;
  for (const std::string layout : kLayouts) {
    testing::TempFolder folder;
    const auto model = load_model(golden_path(layout));
    const std::vector<int64_t> positions = {1, 17, 40}, layers = {0, 2}, heads = {0, 1};
    StateDump dump(*model, {.positions = positions,
                            .layers = layers,
                            .heads = heads,
                            .file = folder / "a.safetensors"});
    Recorder recorder;
    recorder.next = &dump;
    const auto rule = rule_of(&recorder, Impl::Reference);
    State state = model->initial_state(1);
    dump.begin();
    EXPECT_FALSE(std::filesystem::exists(folder / "a.safetensors"));
    stream(
        *model, *rule, tokens_of(layout), state, 24, [](const Segment&) {}, 0, positions);
    dump.finish();
    EXPECT_EQ(static_cast<int64_t>(std::filesystem::file_size(folder / "a.safetensors")),
              dump.bytes());
    const auto file = io::TensorFile::open(folder / "a.safetensors");
    EXPECT_TRUE(at::equal(file.load("positions"), at::tensor(positions)));
    EXPECT_TRUE(at::equal(file.load("layers"), at::tensor(layers)));
    EXPECT_TRUE(at::equal(file.load("heads"), at::tensor(heads)));
    EXPECT_FALSE(file.has("state.layer=1"));
    for (const int layer : {0, 2})
      for (size_t p = 0; p < positions.size(); ++p) {
        const auto of = [&](const std::string& name) {
          return file.load(fmt::format("{}.layer={}", name, layer))[static_cast<int64_t>(p)].to(
              at::kDouble);
        };
        const Tensor all = recorder.state(layer, positions[p]);
        EXPECT_TRUE(at::equal(of("state"), all.narrow(0, 0, 2))) << layout;
        for (const auto& [name, unused] : recorder.layers.at(layer).front().inputs) {
          const Tensor x = recorder.input(layer, name, 0, positions[p]).narrow(1, 0, 2);
          EXPECT_TRUE(at::equal(of(name).view({2, -1}), x[-1])) << layout << " " << name;
        }
        const Tensor decay = recorder.input(layer, "log_decay", 0, positions[p]).narrow(1, 0, 2);
        EXPECT_TRUE(close(of("log_decay"), decay[-1], 1e-6)) << layout;
      }
  }
}

TEST(StateDump, GoesOnWithTheFileItHasBegun) {
  at::NoGradGuard no_grad;
  testing::TempFolder folder;
  const auto model = load_model(golden_path("mamba2-hf"));
  const Tensor tokens = tokens_of("mamba2-hf");
  const auto make = [&](const std::string& name) {
    return StateDump(
        *model, {.positions = {10, 40}, .layers = {1}, .heads = {0, 3}, .file = folder / name});
  };
  const auto run = [&](StateDump& dump, State& state, const Tensor& part) {
    stream(
        *model, *rule_of(&dump), part, state, 20, [](const Segment&) {}, 10);
  };
  StateDump whole = make("whole"), first = make("cut");
  State state = model->initial_state(1), cut = model->initial_state(1);
  whole.begin();
  run(whole, state, tokens);
  whole.finish();
  first.begin();
  run(first, cut, tokens.narrow(1, 0, 31));  // up to 30
  StateDump second = make("cut");
  second.begin(30);
  run(second, cut, tokens.narrow(1, 30, kTokens - 29));
  second.finish();
  EXPECT_EQ(testing::read_bytes(folder / "cut"), testing::read_bytes(folder / "whole"));
  StateDump lost = make("lost");
  testing::expect_error(Error::Kind::Input, {"lost.partial", "--overwrite"},
                        [&] { lost.begin(30); });
}

// ---- the whole command, without its command line ----

struct Whole {
  testing::TempFolder folder;
  io::json summary;
  std::map<std::string, Tensor> arrays;
  std::string journal;
};

void run_whole(Whole& run, StateStatsOptions options, const std::string& layout = "mamba2-hf") {
  at::NoGradGuard no_grad;
  const auto model = load_model(golden_path(layout));
  io::SourceOptions where;
  where.tokens = golden_path(layout) / "golden.safetensors";
  where.length = kTokens;
  where.documents = 1;
  io::TokenSource source = io::TokenSource::open(where, nullptr, model->config().vocab);
  options.arrays = run.folder / "a.safetensors";
  options.run = io::json::object();
  io::Journal journal = io::Journal::open(
      run.folder / "a.jsonl",
      {.schema = kStateStatsSchema, .version = 1, .config = {{"x", 1}}, .provenance = {}});
  Checkpoint checkpoint(journal);
  run.summary = run_state_stats(
      *model, [&](Observer& observer) { return rule_of(&observer); }, source, options, journal,
      checkpoint, [](const Progress&) {});
  const io::TensorFile file = io::TensorFile::open(options.arrays);
  for (const auto& [name, entry] : file.entries())
    run.arrays[name] = file.load(name).clone();
  run.journal = testing::read_bytes(run.folder / "a.jsonl");
}

TEST(StateStats, WriteArraysLimitsAndTheHeadsThatExplode) {
  Whole run;
  run_whole(run, {.segment = 20,
                  .stride = 8,
                  .train_len = 24,
                  .histogram_at = {48, 8},
                  .histogram_bins = 5,
                  .top = 3});
  const auto& a = run.arrays;
  EXPECT_TRUE(at::equal(a.at("positions"), at::arange(8, 49, 8)));
  EXPECT_TRUE(at::equal(a.at("histogram.positions"), at::tensor({int64_t{8}, int64_t{48}})));
  const int64_t H = a.at("heads").size(0);
  EXPECT_EQ(a.at("state.mean").sizes(), (std::vector<int64_t>{1, 6, 3, H}));
  EXPECT_EQ(a.at("histogram.counts").sizes(), (std::vector<int64_t>{1, 2, 3, H, 5}));
  EXPECT_TRUE(bitwise_equal(a.at("limits"), a.at("state.norm")[0].narrow(0, 0, 3).amax(0)));
  const Tensor variance = a.at("state.variance")[0];
  const Tensor ratio = variance.narrow(0, 3, 3).amax(0) / variance.narrow(0, 0, 3).amax(0);
  EXPECT_TRUE(bitwise_equal(a.at("variance_ratio"), ratio));
  const io::json& table = run.summary.at("exploding");
  ASSERT_EQ(table.size(), 3);
  EXPECT_EQ(table[0].at("ratio").get<double>(), ratio.max().item<double>());
  EXPECT_GE(table[0].at("ratio").get<double>(), table[1].at("ratio").get<double>());
  for (const io::json& row : table) {
    const int64_t l = row.at("layer"), h = row.at("head"),
                  s = row.at("largest_at_tokens").get<int64_t>() / 8 - 1;
    EXPECT_EQ(row.at("ratio").get<double>(), ratio[l][h].item<double>());
    EXPECT_EQ(row.at("variance_past").get<double>(), variance[s][l][h].item<double>());
    EXPECT_GE(s, 3);
  }
  const Tensor nll =
      testing::segmented_nll(*load_model(golden_path("mamba2-hf")), tokens_of("mamba2-hf"), 8);
  EXPECT_TRUE(close(a.at("loss.mean_nll")[0], nll.narrow(0, 0, 48).view({6, 8}).mean(1), 1e-6));
  EXPECT_EQ(run.summary.at("curve").size(), 6);
  EXPECT_FALSE(std::filesystem::exists(run.folder / "a.safetensors.partial"));
}

TEST(StateStats, RecordTapsOfEveryConvolution) {
  for (const std::string layout : {"mamba2-hf", "mamba1-hf", "rwkv6-hf"}) {
    Whole run;
    run_whole(run, {.stride = 25}, layout);
    EXPECT_EQ(run.arrays.contains("conv.mean"), layout != "rwkv6-hf");
    EXPECT_EQ(run.arrays.contains("limits"), false);
    EXPECT_TRUE(run.summary.at("exploding").is_null());
    if (layout == "rwkv6-hf")
      continue;
    const io::TensorFile file = io::TensorFile::open(golden_path(layout) / "model.safetensors");
    for (const int64_t l : {0, 1}) {
      const Tensor taps = file.load(fmt::format("backbone.layers.{}.mixer.conv1d.weight", l))
                              .to(at::kDouble)
                              .squeeze(1);
      EXPECT_TRUE(close(run.arrays.at("conv.mean")[l], taps.mean(1), 1e-12));
      EXPECT_TRUE(close(run.arrays.at("conv.variance")[l],
                        at::var(taps, at::OptionalIntArrayRef(1), 1), 1e-12));
    }
  }
}

TEST(StateStats, RefuseWhatCannotBeSampled) {
  const auto refused = [](const StateStatsOptions& options, const std::string& part) {
    testing::expect_error(Error::Kind::Usage, {part}, [&] {
      Whole run;
      run_whole(run, options);
    });
  };
  refused({.stride = 51}, "--stride of 51");
  refused({.stride = 8, .train_len = 7}, "--train-len 7");
  refused({.stride = 8, .layers = {3}}, "--layers: 3");
  refused({.stride = 8, .heads = {99}}, "--heads: 99");
  refused({.stride = 8, .histogram_at = {12}}, "--histogram-at 12");
  refused({.stride = 8, .histogram_at = {56}}, "--histogram-at 56");
}

TEST(StateStats, RefuseArraysThatWouldNotFit) {
  ModelConfig model;
  model.layers = 64;
  model.heads = 5120;  // a large Mamba-1: a head is a channel
  model.key_width = 16;
  model.value_width = 1;
  const auto refused = [&](const StateStatsOptions& options, const std::string& part) {
    testing::expect_error(Error::Kind::Usage, {part},
                          [&] { check_state_stats(options, model, "text", 1 << 20, 1); });
  };
  refused({.stride = 1024}, "raise --stride");
  EXPECT_NO_THROW(check_state_stats({.stride = 1 << 17}, model, "text", 1 << 20, 1));
  EXPECT_NO_THROW(check_state_stats({.stride = 1024, .heads = {0, 1}}, model, "text", 1 << 20, 1));
  std::vector<int64_t> positions;
  for (int64_t i = 1; i <= 256; ++i)
    positions.push_back(i * 4096);
  model.heads = 32;
  model.key_width = 128;
  model.value_width = 128;
  refused({.stride = 4096, .histogram_at = positions}, "--histogram-at: the states at 256");
}

TEST(StateStats, AFinishedRunNeedsItsArrays) {
  Whole run;
  run_whole(run, {.stride = 16});
  const std::string bytes = testing::read_bytes(run.folder / "a.safetensors");
  run_whole(run, {.stride = 16});
  EXPECT_EQ(testing::read_bytes(run.folder / "a.safetensors"), bytes);
  std::filesystem::remove(run.folder / "a.safetensors");
  testing::expect_error(Error::Kind::Input, {"a.safetensors", "--overwrite"},
                        [&] { run_whole(run, {.stride = 16}); });
}

}  // namespace
}  // namespace stuffed::eval
