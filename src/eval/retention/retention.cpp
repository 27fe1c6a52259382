#include "stuffed/eval/retention.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "retention_summary.h"
#include "src/eval/documents.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/run_size.h"
#include "suffix_walk.h"

namespace stuffed::eval {

namespace {

std::vector<int64_t> distinct(std::vector<int64_t> values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
  return values;
}

std::vector<SuffixPoint> points_of(const RetentionOptions& options, int64_t targets) {
  const std::vector<int64_t> reads =
      distinct(options.read_tokens.empty() ? std::vector{targets} : options.read_tokens);
  std::vector<SuffixPoint> points;
  for (const int64_t read : reads) {
    points.push_back({read, options.suffixes.empty() ? log_spaced(read, options.points)
                                                     : distinct(options.suffixes)});
    check(points.back().suffix_tokens.back() <= read, Error::Kind::Usage,
          "a suffix of {} tokens is longer than the {} tokens read",
          points.back().suffix_tokens.back(), read);
  }
  return points;
}

/// What one document takes: where suffixes begin, and where half-lives do.
struct Plan {
  std::vector<SuffixPoint> points;
  HalfLifePlan half_life;

  void watch(DecayIntervals& decays, int64_t layers, int64_t window = 0) const {
    std::vector<Interval> sums, lives;
    for (const SuffixPoint& point : points)
      for (const int64_t n : point.suffix_tokens)
        sums.push_back({point.read - n + 1, point.read});
    for (const int64_t start : half_life.starts)
      lives.push_back({start + 1, start + 1 + half_life.followed_tokens});
    decays.watch(layers, sums, lives, window);
  }
};

Plan plan_of(const io::Document& document, const RetentionOptions& options) {
  const auto targets = static_cast<int64_t>(document.tokens.size()) - 1;
  const int64_t needed =
      options.read_tokens.empty() ? 2 : std::max<int64_t>(2, std::ranges::max(options.read_tokens));
  check(targets >= needed, Error::Kind::Input,
        "{}: has {} targets, but --at asks for {} tokens before a target; give a smaller --at",
        document.name, targets, needed);
  Plan plan{.points = points_of(options, targets), .half_life = {}};
  check(plan.points.back().read >= 2, Error::Kind::Usage,
        "half-lives need at least 2 tokens, but {} was asked for", plan.points.back().read);
  check(options.fewer_starts || options.half_life_starts <= plan.points.back().read / 2,
        Error::Kind::Usage,
        "--half-life-starts {}: the first half of the {} tokens read has fewer positions",
        options.half_life_starts, plan.points.back().read);
  plan.half_life = plan_half_lives(plan.points.back().read, options.half_life_starts);
  return plan;
}

constexpr char kMitigated[] = "mitigated/";  // in front of an array's name

/// Of one observer; `prefix` begins every name.
void add_arrays(const Plan& plan,
                const DecayIntervals& decays,
                const std::string& prefix,
                RetentionArrays::Named& arrays) {
  const DecayIntervals::Weights weights = decays.weights();
  int64_t begin = 0;
  for (const SuffixPoint& point : plan.points) {
    const auto count = static_cast<int64_t>(point.suffix_tokens.size());
    const auto put = [&](const char* which, const Tensor& all) {
      arrays[fmt::format("{}surviving_weight{}.read={}", prefix, which, point.read)] =
          all.narrow(2, begin, count).to(at::kFloat).contiguous();
    };
    put("", weights.mean);
    put("/least", weights.least);
    put("/most", weights.most);
    begin += count;
  }
  arrays[prefix + "half_life_tokens"] = half_lives(decays.lived(), plan.half_life.followed_tokens);
  const DecayIntervals::Alpha alpha = decays.alpha();
  arrays[prefix + "alpha.mean"] = alpha.mean;
  arrays[prefix + "alpha.geometric"] = alpha.geometric;
}

/// What an observer says goes into `record`, its names behind `prefix`; false if it is not finite.
bool add_decays(const Plan& plan,
                const DecayIntervals& decays,
                const RetentionArrays::Named& arrays,
                bool is_mitigated,
                io::json& record) {
  const std::string field = is_mitigated ? "mitigated_" : "",
                    array = is_mitigated ? kMitigated : "";
  const Tensor by_layer = decays.weights().mean.mean(1);  // [L,sums]
  int64_t begin = 0;
  for (size_t i = 0; i < plan.points.size(); ++i) {
    const auto count = static_cast<int64_t>(plan.points[i].suffix_tokens.size());
    record["points"][i][field + "surviving_weight_by_layer"] =
        numbers(by_layer.narrow(1, begin, count));
    begin += count;
  }
  record[field + "half_life"] = half_life_json(arrays.at(array + "half_life_tokens"),
                                               static_cast<int64_t>(plan.half_life.starts.size()),
                                               plan.half_life.followed_tokens);
  record[field + "alpha"] = {
      {"mean_by_layer", numbers(arrays.at(array + "alpha.mean").mean(1))},
      {"geometric_by_layer", numbers(arrays.at(array + "alpha.geometric").mean(1))}};
  return by_layer.isfinite().all().item<bool>() && decays.lived().ge(0).all().item<bool>();
}

io::json record_of(const Plan& plan,
                   const std::vector<Tensor>& effrem,
                   const DecayIntervals& decays,
                   const RetentionArrays::Named& arrays,
                   const RetentionOptions& options) {
  io::json record;
  bool finite = true;
  for (size_t i = 0; i < plan.points.size(); ++i) {
    const SuffixPoint& point = plan.points[i];
    finite = finite && effrem[i].isfinite().all().item<bool>();
    record["points"].push_back({{"read_tokens", point.read},
                                {"suffix_tokens", point.suffix_tokens},
                                {"effrem", numbers(effrem[i])}});
  }
  finite = add_decays(plan, decays, arrays, false, record) && finite;
  if (options.mitigated != nullptr)
    finite = add_decays(plan, *options.mitigated, arrays, true, record) && finite;
  record["transition"] = decays.erases() ? "diagonal part" : "diagonal";
  record["finite"] = finite;
  return record;
}

/// Documents are averaged place by place, so all must be measured at the same places.
void check_same_reads(const io::Journal& journal, const io::Document& document, const Plan& plan) {
  const std::vector<int64_t> numbers = document_numbers(journal);
  if (numbers.empty())
    return;
  const int64_t before =
      document_record(journal, numbers.front()).at("points").back().at("read_tokens");
  check(plan.points.back().read == before, Error::Kind::Input,
        "{}: has {} targets, the first document {}; give --length or --at, so that they can be "
        "averaged",
        document.name, plan.points.back().read, before);
}

class Retention : public DocumentTask {
 public:
  Retention(const RecurrentLM& model,
            const Recurrence& rule,
            DecayIntervals& decays,
            const RetentionOptions& options,
            const io::Journal& journal)
      : model_(model),
        rule_(rule),
        decays_(decays),
        options_(options),
        journal_(journal),
        sidecar_(options.arrays, journal) {}

  void keep(const std::vector<int64_t>& targets, bool) override { sidecar_.keep(count(targets)); }

  std::vector<io::json> measure(const Batch& batch, Measuring& measuring) override {
    const io::Document& document = batch.documents.front();
    const Plan plan = plan_of(document, options_);
    check_same_reads(journal_, document, plan);
    plan.watch(decays_, model_.config().layers);
    if (options_.mitigated != nullptr)
      plan.watch(*options_.mitigated, model_.config().layers, options_.window);
    const std::vector<Tensor> effrem = walk(batch, plan, measuring);
    RetentionArrays::Named arrays;
    add_arrays(plan, decays_, "", arrays);
    if (options_.mitigated != nullptr)
      add_arrays(plan, *options_.mitigated, kMitigated, arrays);
    io::json record = options_.run;
    record.update(record_of(plan, effrem, decays_, arrays, options_));
    sidecar_.save(batch.first, arrays);
    return {record};
  }

  io::json summarise(const std::vector<int64_t>& targets) override {
    return summarise_retention(journal_, medians(targets), options_);
  }

  void conclude(const std::vector<int64_t>& targets) override {
    sidecar_.finish(count(targets), medians(targets));
  }

  void remove_partial() const override { sidecar_.remove_partial(); }

 private:
  static int64_t count(const std::vector<int64_t>& targets) { return std::ssize(targets); }

  RetentionArrays::Named medians(const std::vector<int64_t>& targets) const {
    RetentionArrays::Named found;
    for (const std::string name : {"half_life_tokens", "mitigated/half_life_tokens"})
      if (const Tensor median = median_half_life(sidecar_, count(targets), name); median.defined())
        found[name + "/median"] = median;
    return found;
  }

  std::vector<Tensor> walk(const Batch& batch, const Plan& plan, Measuring& measuring) {
    const Snapshot* const from = measuring.resumed();
    int64_t fed_before = 0;
    if (from) {
      decays_.load(*from, model_.device());
      if (options_.mitigated != nullptr)
        options_.mitigated->load(*from, model_.device(), "mitigated");
      fed_before = from->integer("fed", 1, tokens_to_feed(plan.points));
    }
    measuring.begin(tokens_to_feed(plan.points), fed_before);
    const auto on_progress = [&](int64_t fed) {
      measuring.advance(fed, fed - fed_before);
      fed_before = fed;
    };
    const auto on_reached = [&](const std::function<void(Snapshot&)>& fill) {
      measuring.reached([&](Snapshot& snapshot) {
        fill(snapshot);
        decays_.save(snapshot);
        if (options_.mitigated != nullptr)
          options_.mitigated->save(snapshot, "mitigated");
      });
    };
    return effective_remembrance(
        model_, rule_, tokens_of(batch, 1), plan.points, options_.segment,
        {.on_progress = on_progress, .on_reached = on_reached, .from = from});
  }

  const RecurrentLM& model_;
  const Recurrence& rule_;
  DecayIntervals& decays_;
  const RetentionOptions& options_;
  const io::Journal& journal_;
  RetentionArrays sidecar_;
};

}  // namespace

int64_t tokens_to_feed(const RetentionOptions& options, int64_t targets) {
  return tokens_to_feed(points_of(options, targets));
}

HalfLifePlan plan_half_lives(int64_t tokens, int64_t starts) {
  const int64_t half = tokens / 2, count = std::min(starts, half);
  check(half >= 1 && starts >= 1, Error::Kind::Internal, "half-lives of {} tokens from {} starts",
        tokens, starts);
  HalfLifePlan plan;
  for (int64_t i = 0; i < count; ++i)
    plan.starts.push_back(i * half / count);
  plan.followed_tokens = tokens - 1 - plan.starts.back();
  return plan;
}

io::json run_retention(const RecurrentLM& model,
                       const Recurrence& rule,
                       DecayIntervals& decays,
                       io::TokenSource& source,
                       const RetentionOptions& options,
                       io::Journal& journal,
                       Checkpoint& checkpoint,
                       const OnProgress& on_progress) {
  Retention task(model, rule, decays, options, journal);
  return run_documents(task, source, journal, checkpoint, on_progress);
}

}  // namespace stuffed::eval
