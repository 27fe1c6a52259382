#include "stuffed/eval/state_stats.h"

#include <algorithm>
#include <numeric>

#include <ATen/ATen.h>

#include "conv_taps.h"
#include "state_arrays.h"
#include "state_observer.h"
#include "state_summary.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/eval/stream.h"
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

std::string key_of(int64_t document) {
  return fmt::format("document={}", document);
}

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

NamedTensors feed(const Task& task,
                  const Recurrence& rule,
                  StateObserver& observer,
                  const io::Document& document,
                  Progress& progress,
                  const OnProgress& on_progress) {
  const RecurrentLM& model = task.model;
  const auto size = static_cast<int64_t>(document.tokens.size());
  const Tensor tokens =
      at::tensor(at::ArrayRef<int32_t>(document.tokens), at::kInt).view({1, size});
  const int64_t stride = task.options.stride;
  State state = model.initial_state(1);
  std::vector<double> means;
  double sum = 0;
  progress.total = size - 1;
  const auto on_segment = [&](const Segment& segment) {
    const int64_t end = segment.begin + segment.inputs.size(1);
    sum += ops::linear_cross_entropy(segment.out.hidden, model.head().linear, model.head().vocab,
                                     segment.targets)
               .sum(at::kDouble)
               .item<double>();
    if (end % stride == 0) {
      observer.end_sample(end);
      means.push_back(sum / static_cast<double>(stride));
      sum = 0;
    }
    progress.done = end;
    progress.done_by_process += segment.inputs.size(1);
    on_progress(progress);
  };
  stream(model, rule, tokens, state, task.options.segment, on_segment, stride);
  NamedTensors arrays = observer.take();
  arrays.emplace_back("loss.mean_nll", at::tensor(means, at::kDouble));
  return arrays;
}

io::json record_of(const io::Document& document,
                   int64_t index,
                   const NamedTensors& arrays,
                   const StateStatsOptions& options) {
  const std::map<std::string, Tensor> by_name(arrays.begin(), arrays.end());
  const Tensor &loss = by_name.at("loss.mean_nll"), &norm = by_name.at("state.norm");
  const double mean = loss.mean().item<double>(), largest = norm.max().item<double>();
  io::json record = options.run;
  record["document"] = index;
  record["name"] = document.name;
  record["targets"] = document.tokens.size() - 1;
  record["stride_tokens"] = options.stride;
  record["samples"] = loss.size(0);
  record["mean_nll_nats"] = mean;  // of the tokens up to the last sample
  record["largest_norm"] = largest;
  record["finite"] = std::isfinite(mean) && std::isfinite(largest);
  record["not_finite_states"] = norm.numel() - norm.isfinite().sum().item<int64_t>();
  for (const io::Boundary& boundary : document.boundaries)
    record["boundaries"].push_back({{"position", boundary.position}, {"name", boundary.name}});
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

/// The summary and the sidecar, from the documents that are done.
void conclude(const Task& task,
              const StateArrays& arrays,
              const std::vector<int64_t>& targets,
              const io::TokenSource& source,
              io::Results& results) {
  const StateStatsOptions& options = task.options;
  const auto documents = static_cast<int64_t>(targets.size());
  StateSummary summary =
      summarise_states(arrays, documents, task.layers, task.heads, task.whole_model(), options);
  NamedTensors more = axes_of(task, *std::max_element(targets.begin(), targets.end()));
  for (const NamedTensors& part : {summary.arrays, tap_statistics(task.model, task.layers)})
    more.insert(more.end(), part.begin(), part.end());
  if (!results.done("summary")) {
    io::json record = options.run;
    record.update(summary.record);
    record["documents"] = documents;
    record["stride_tokens"] = options.stride;
    record["train_len_tokens"] = options.train_len ? io::json(*options.train_len) : io::json();
    record["layers"] = task.layers.size();
    record["heads"] = task.heads.size();
    record["skipped"] = io::json::array();
    for (const io::Skipped& skipped : source.skipped())
      record["skipped"].push_back({{"name", skipped.name}, {"targets", skipped.targets}});
    results.append("summary", record);
  }
  arrays.finish(documents, more, options.metadata);
}

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
    io::Results& results,
    const OnProgress& on_progress) {
  Task task{.model = model,
            .options = options,
            .layers = resolve_indices(options.layers, model.config().layers, "--layers"),
            .heads = resolve_indices(options.heads, model.config().heads, "--heads")};
  std::vector<int64_t>& at = task.options.histogram_at;
  std::sort(at.begin(), at.end());
  at.erase(std::unique(at.begin(), at.end()), at.end());
  check_state_stats(options, model.config(), "", 0, 1);
  const StateArrays arrays(options.arrays);
  if (results.finished()) {
    check(std::filesystem::exists(options.arrays), Error::Kind::Input,
          "{}: is missing, though the journal is finished; start anew with --overwrite",
          options.arrays.string());
    arrays.remove_partial();
    return results.record("summary");
  }
  std::vector<int64_t> targets;  // of each document that is done
  while (results.done(key_of(static_cast<int64_t>(targets.size()))))
    targets.push_back(results.record(key_of(static_cast<int64_t>(targets.size()))).at("targets"));
  arrays.keep(static_cast<int64_t>(targets.size()));

  StateObserver observer(model, task.options, task.layers, task.heads);
  const std::shared_ptr<const Recurrence> rule = make_rule(observer);
  const int64_t documents = source.identity().value("documents", int64_t{1});
  Progress progress;
  for (int64_t index = 0; const std::optional<io::Document> document = source.next(); ++index) {
    if (results.done(key_of(index)))
      continue;
    stop_if_interrupted();
    const auto size = static_cast<int64_t>(document->tokens.size());
    check_state_stats(options, model.config(), document->name, size - 1, documents);
    progress.document = index;
    const NamedTensors found = feed(task, *rule, observer, *document, progress, on_progress);
    arrays.write_document(index, found);
    results.append(key_of(index), record_of(*document, index, found, options));
    targets.push_back(size - 1);
  }
  conclude(task, arrays, targets, source, results);
  results.finish();
  arrays.remove_partial();
  return results.record("summary");
}

}  // namespace stuffed::eval
