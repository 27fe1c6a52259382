#include "stuffed/eval/state_stats.h"

#include <algorithm>
#include <numeric>

#include <ATen/ATen.h>

#include "conv_taps.h"
#include "src/eval/documents.h"
#include "state_arrays.h"
#include "state_observer.h"
#include "state_summary.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/stream.h"
#include "stuffed/models/state_file.h"
#include "stuffed/ops/linear_cross_entropy.h"

namespace stuffed::eval {

const char* const kStateStatsArrays =
    "Arrays (f64 unless said otherwise; D documents, S samples, L layers and H heads recorded):\n"
    "  positions [S] int64        tokens consumed at each sample: stride, 2*stride, ...\n"
    "  layers [L], heads [H]      int64: which ones the axes are\n"
    "  loss.mean_nll [D,S]        nats, over the tokens since the sample before\n"
    "  state.X [D,S,L,H]          over the K*V elements of a head: mean, variance (unbiased), "
    "rms,\n"
    "                             max, max_abs, median (lower middle), norm (Frobenius), rank "
    "(exp\n"
    "                             of the entropy of the normalised singular values; 1 for a "
    "vector)\n"
    "  log_decay.mean [D,S,L,H]   nats per token, over tokens since the sample before and "
    "channels\n"
    "  alpha.mean [D,S,L,H]       of the decay per token alpha = exp(log_decay), likewise;\n"
    "                             alpha.sequence_mean [D,L,H] over the whole document\n"
    "  log_decay.cumulative       sum since the first token, mean over channels; its exp is what "
    "is\n"
    "                             left of the first token; cumulative_slowest: the channel that\n"
    "                             keeps most\n"
    "  Q.mean, Q.variance [D,S,L,H]  of an input Q over its channels (variance unbiased, NaN for\n"
    "                             one channel), per token, then averaged since the sample before;\n"
    "                             Q is q, k, v (C, B, x in Mamba), dt (Mamba), erase_read and\n"
    "                             erase_write (RWKV-7)\n"
    "  Q.layer_mean, Q.layer_variance [D,S,L]  the same over all channels of the layer\n"
    "  conv.mean, conv.variance [L,C]  of each channel's taps, if the family has a convolution;\n"
    "                             channels x, B, C (Mamba-2), x (Mamba-1), q, f, i (HGRN-2)\n"
    "  histogram.counts [D,P,L,H,bins] int64, histogram.edges [D,L,H,bins+1], "
    "histogram.positions [P] int64\n"
    "  variance_ratio [L,H], limits [L,H]  with --train-len: largest variance past it over the\n"
    "                             largest within; largest Frobenius norm within (for clamp_norm)\n";

namespace {

constexpr double kMostGiB = 4;

/// What is asked for, resolved against the model.
struct Task {
  const RecurrentLM& model;
  StateStatsOptions options;  // histogram_at sorted, as the stream meets them
  std::vector<int64_t> layers, heads;

  bool whole_model() const {
    return static_cast<int64_t>(layers.size()) == model.config().layers &&
           static_cast<int64_t>(heads.size()) == model.config().heads;
  }
};

/// Hands every update to two observers.
struct Both : Observer {
  Both(Observer& one, Observer* other) : first(one), second(other) {}
  void on_update(Where where, const ScanInputs& in, const LayerState& after) override {
    first.on_update(where, in, after);
    if (second != nullptr)
      second->on_update(where, in, after);
  }
  Observer& first;
  Observer* second;  // may be null
};

/// The dump's positions; none without one.
std::span<const int64_t> dumped_at(const StateStatsOptions& options) {
  return options.dump == nullptr ? std::span<const int64_t>() : options.dump->options().positions;
}

void check_dump(const StateStatsOptions& options, const Batch& batch) {
  if (options.dump == nullptr)
    return;
  check(batch.first == 0, Error::Kind::Usage,
        "--dump: takes the states of one document, and there are more; give --documents 1");
  const int64_t last = options.dump->options().positions.back();
  check(last <= batch.targets(), Error::Kind::Usage, "--dump {}: {} has {} targets", last,
        batch.documents.front().name, batch.targets());
}

io::json record_of(const NamedTensors& arrays, const StateStatsOptions& options) {
  const std::map<std::string, Tensor> by_name(arrays.begin(), arrays.end());
  const Tensor &loss = by_name.at("loss.mean_nll"), &norm = by_name.at("state.norm");
  const double mean = loss.mean().item<double>(), largest = norm.max().item<double>();
  io::json record = options.run;
  record["stride_tokens"] = options.stride;
  record["samples"] = loss.size(0);
  record["mean_nll_nats"] = mean;  // of the tokens up to the last sample
  record["largest_norm"] = largest;
  record["alpha_mean_by_layer"] = alpha_by_layer(by_name.at("alpha.sequence_mean"));
  record["finite"] = std::isfinite(mean) && std::isfinite(largest);
  record["not_finite_states"] = norm.numel() - norm.isfinite().sum().item<int64_t>();
  return record;
}

NamedTensors axes_of(const Task& task, int64_t longest) {
  const StateStatsOptions& options = task.options;
  NamedTensors axes = {
      {"positions", at::arange(1, longest / options.stride + 1, at::kLong) * options.stride},
      {"layers", at::tensor(task.layers, at::kLong)},
      {"heads", at::tensor(task.heads, at::kLong)}};
  if (!options.histogram_at.empty())
    axes.emplace_back("histogram.positions", at::tensor(options.histogram_at, at::kLong));
  return axes;
}

class StateStats : public DocumentTask {
 public:
  StateStats(Task task, int64_t documents, const io::Journal& journal)
      : task_(std::move(task)),
        documents_(documents),
        arrays_(task_.options.arrays, journal),
        observer_(task_.model, task_.options, task_.layers, task_.heads),
        observers_(observer_, task_.options.dump) {}

  Observer& observers() { return observers_; }
  void set_rule(std::shared_ptr<const Recurrence> rule) { rule_ = std::move(rule); }

  void check_finished() const override {
    const StateDump* const dump = task_.options.dump;
    check(dump == nullptr || std::filesystem::exists(dump->options().file), Error::Kind::Input,
          "{}: is missing, though the journal is finished; start anew with --overwrite",
          dump == nullptr ? "" : dump->options().file.string());
  }

  void keep(const std::vector<int64_t>& targets, bool) override {
    arrays_.keep(static_cast<int64_t>(targets.size()));
  }

  std::vector<io::json> measure(const Batch& batch, Measuring& measuring) override {
    check_state_stats(task_.options, task_.model.config(), batch.documents.front().name,
                      batch.targets(), documents_);
    check_dump(task_.options, batch);
    const NamedTensors found = feed(batch, measuring);
    arrays_.write_document(batch.first, found);
    if (task_.options.dump != nullptr)
      task_.options.dump->finish();
    return {record_of(found, task_.options)};
  }

  io::json summarise(const std::vector<int64_t>& targets) override {
    io::json record = task_.options.run;
    record.update(summary(targets).record);
    record["stride_tokens"] = task_.options.stride;
    record["train_len_tokens"] =
        task_.options.train_len ? io::json(*task_.options.train_len) : io::json();
    record["layers"] = task_.layers.size();
    record["heads"] = task_.heads.size();
    return record;
  }

  void conclude(const std::vector<int64_t>& targets) override {
    NamedTensors more = axes_of(task_, *std::max_element(targets.begin(), targets.end()));
    for (const NamedTensors& part :
         {summary(targets).arrays, tap_statistics(task_.model, task_.layers)})
      more.insert(more.end(), part.begin(), part.end());
    arrays_.finish(static_cast<int64_t>(targets.size()), more, task_.options.metadata);
  }

  void remove_partial() const override { arrays_.remove_partial(); }

 private:
  /// Losses since the last sample, and their means at each sample.
  struct Losses {
    std::vector<double> means;
    double sum = 0;
  };

  NamedTensors feed(const Batch& batch, Measuring& measuring) {
    const RecurrentLM& model = task_.model;
    const int64_t stride = task_.options.stride;
    Losses losses;
    State state = start(batch, measuring, losses);
    measuring.begin(batch.targets(), state.position);
    if (task_.options.dump != nullptr)
      task_.options.dump->begin(state.position);
    const auto on_segment = [&](const Segment& segment) {
      const int64_t tokens = segment.inputs.size(1), end = segment.begin + tokens;
      losses.sum += ops::linear_cross_entropy(segment.out.hidden, model.head().linear,
                                              model.head().vocab, segment.targets)
                        .sum(at::kDouble)
                        .item<double>();
      if (end % stride == 0) {
        observer_.end_sample(end);
        losses.means.push_back(losses.sum / static_cast<double>(stride));
        losses.sum = 0;
      }
      measuring.advance(end, tokens);
      if (end < batch.targets())
        measuring.reached([&](Snapshot& snapshot) { fill(snapshot, state, losses); });
    };
    stream(model, *rule_, tokens_of(batch, 1).slice(1, state.position), state,
           task_.options.segment, on_segment, stride, dumped_at(task_.options));
    NamedTensors arrays = observer_.take();
    const auto alpha = std::ranges::find(arrays, "alpha.mean", &NamedTensors::value_type::first);
    if (alpha != arrays.end())
      arrays.emplace_back("alpha.sequence_mean", alpha->second.mean(0));
    arrays.emplace_back("loss.mean_nll", at::tensor(losses.means, at::kDouble));
    return arrays;
  }

  void fill(Snapshot& snapshot, const State& state, const Losses& losses) const {
    put_state(snapshot.tensors, "state.", state);
    snapshot.tensors["loss.means"] = at::tensor(losses.means, at::kDouble);
    snapshot.tensors["loss.sum"] = at::tensor(at::ArrayRef<double>(losses.sum), at::kDouble);
    snapshot.fields["position"] = state.position;
    observer_.save(snapshot);
  }

  State start(const Batch& batch, const Measuring& measuring, Losses& losses) {
    const Snapshot* const from = measuring.resumed();
    if (!from)
      return task_.model.initial_state(1);
    const int64_t position = from->integer("position", 1, batch.targets() - 1);
    const Tensor& means = from->at("loss.means", at::kDouble, 1);
    from->check_that(means.size(0) == position / task_.options.stride);
    losses.means.assign(means.const_data_ptr<double>(),
                        means.const_data_ptr<double>() + means.numel());
    losses.sum = from->at("loss.sum", at::kDouble, 1).sum().item<double>();
    observer_.load(*from);
    return take_state(from->tensors, "state.", position, 1, task_.model, from->where);
  }

  StateSummary summary(const std::vector<int64_t>& targets) const {
    return summarise_states(arrays_, static_cast<int64_t>(targets.size()), task_.layers,
                            task_.heads, task_.whole_model(), task_.options);
  }

  Task task_;
  int64_t documents_;  // of the source, if it says
  StateArrays arrays_;
  StateObserver observer_;
  Both observers_;  // observer_, and the dump
  std::shared_ptr<const Recurrence> rule_;
};

}  // namespace

std::vector<int64_t> resolve_indices(std::vector<int64_t> chosen,
                                     int64_t count,
                                     std::string_view flag) {
  if (chosen.empty()) {
    chosen.resize(static_cast<size_t>(count));
    std::iota(chosen.begin(), chosen.end(), 0);
  }
  std::sort(chosen.begin(), chosen.end());
  chosen.erase(std::unique(chosen.begin(), chosen.end()), chosen.end());
  check(chosen.front() >= 0 && chosen.back() < count, Error::Kind::Usage,
        "{}: {} is asked for, but this model has 0 to {}", flag, chosen.back(), count - 1);
  return chosen;
}

void check_state_stats(const StateStatsOptions& options,
                       const ModelConfig& model,
                       std::string_view what,
                       int64_t targets,
                       int64_t documents) {
  const int64_t stride = options.stride, samples = targets / stride;
  check(options.train_len.value_or(stride) >= stride, Error::Kind::Usage,
        "--train-len {} holds no sample at a --stride of {}; choose a smaller stride",
        options.train_len.value_or(0), stride);
  for (const int64_t position : options.histogram_at)
    check(position % stride == 0, Error::Kind::Usage,
          "--histogram-at {}: no state is sampled there; choose multiples of --stride {}", position,
          stride);
  if (targets == 0)
    return;
  check(samples > 0, Error::Kind::Usage,
        "{}: {} tokens hold no sample at a --stride of {}; choose a smaller one", what, targets,
        stride);
  for (const int64_t position : options.histogram_at)
    check(position <= targets, Error::Kind::Usage,
          "--histogram-at {}: {} has its last sample at {}", position, what, samples * stride);

  constexpr auto kGiB = static_cast<double>(int64_t{1} << 30);
  const auto L = resolve_indices(options.layers, model.layers, "--layers").size(),
             H = resolve_indices(options.heads, model.heads, "--heads").size();
  const auto heads = static_cast<double>(L * H);
  const double arrays = static_cast<double>(std::max<int64_t>(1, documents) * samples) * heads *
                        static_cast<double>(kMostHeadRows * sizeof(double));
  check(arrays <= kMostGiB * kGiB, Error::Kind::Usage,
        "the arrays would hold {:.1f} GiB (samples x layers x heads: {} x {} x {}, documents: {}), "
        "more than {:.0f}; raise --stride, or choose fewer --layers or --heads",
        arrays / kGiB, samples, L, H, documents, kMostGiB);
  const double states = static_cast<double>(options.histogram_at.size() * sizeof(float)) * heads *
                        static_cast<double>(model.key_width * model.value_width);
  check(states <= kMostGiB * kGiB, Error::Kind::Usage,
        "--histogram-at: the states at {} positions hold {:.1f} GiB, more than {:.0f}; choose "
        "fewer of them, or of --layers or --heads",
        options.histogram_at.size(), states / kGiB, kMostGiB);
}

io::json run_state_stats(
    const RecurrentLM& model,
    const std::function<std::shared_ptr<const Recurrence>(Observer&)>& make_rule,
    io::TokenSource& source,
    const StateStatsOptions& options,
    io::Journal& journal,
    Checkpoint& checkpoint,
    const OnProgress& on_progress) {
  Task task{.model = model,
            .options = options,
            .layers = resolve_indices(options.layers, model.config().layers, "--layers"),
            .heads = resolve_indices(options.heads, model.config().heads, "--heads")};
  std::vector<int64_t>& at = task.options.histogram_at;
  std::sort(at.begin(), at.end());
  at.erase(std::unique(at.begin(), at.end()), at.end());
  check_state_stats(options, model.config(), "", 0, 1);
  StateStats statistics(std::move(task), source.identity().value("documents", int64_t{1}), journal);
  statistics.set_rule(make_rule(statistics.observers()));
  return run_documents(statistics, source, journal, checkpoint, on_progress);
}

}  // namespace stuffed::eval
