// Mitigations beside the plain model: what they gain past the training length, and what they cost.
#include <algorithm>
#include <map>

#include <fmt/format.h>

#include "groups.h"
#include "losses.h"
#include "sections.h"
#include "src/eval/compare/intervals.h"
#include "stuffed/recurrence/mitigations.h"

namespace stuffed::report {

using io::json;

namespace {

json tokens_of(const Run& run) {
  return {run.config.at("model").at("sha256"), run.config.at("data"),
          run.config.at("bucket_tokens"), run.config.value("train_len_tokens", json())};
}

/// Losses of the documents that both runs have measured, in one order.
struct Pairs {
  std::vector<std::pair<const Document*, const Document*>> documents;
  int64_t bucket_tokens = 0;
  size_t buckets = 0;

  /// How much more than the plain run, over buckets first to last; NaN without a document.
  Estimate difference(size_t first, size_t last) const;
};

Pairs pairs_of(const Losses& plain, const Losses& mitigated) {
  Pairs pairs{.documents = {}, .bucket_tokens = plain.bucket_tokens()};
  for (const Document& a : plain.documents())
    for (const Document& b : mitigated.documents())
      if (a.targets == b.targets &&
          (a.hash.empty() || b.hash.empty() ? a.number == b.number : a.hash == b.hash)) {
        pairs.documents.emplace_back(&a, &b);
        pairs.buckets = std::max(pairs.buckets, a.nll_sum.size());
        break;
      }
  return pairs;
}

Estimate Pairs::difference(size_t first, size_t last) const {
  std::vector<double> sums, weights;
  double sum = 0, weight = 0;
  for (const auto& [a, b] : documents) {
    const size_t end = std::min(last + 1, a->nll_sum.size());
    if (first >= end)
      continue;
    double more = 0;
    for (size_t i = first; i < end; ++i)
      more += b->nll_sum[i] - a->nll_sum[i];
    const int64_t targets = std::min(a->targets, static_cast<int64_t>(end) * bucket_tokens) -
                            static_cast<int64_t>(first) * bucket_tokens;
    sums.push_back(more);
    weights.push_back(static_cast<double>(targets));
    sum += more;
    weight += weights.back();
  }
  const auto interval = eval::comparing::interval_of_ratio(sums, weights);
  return {.mean = sum / weight, .low = interval.low, .high = interval.high};
}

/// What is "as another's" is said in that one's words.
std::string_view cost_of(const MitigationHelp& help) {
  for (const MitigationHelp& other : mitigation_help())
    if (help.cost == fmt::format("as {}", other.name))
      return other.cost;
  return help.cost;
}

std::string costs_of(const std::string& mitigations) {
  std::string costs;
  for (const MitigationHelp& help : mitigation_help())
    if (mitigations.starts_with(help.name) ||
        mitigations.find(fmt::format("+ {}", help.name)) != mitigations.npos)
      costs += (costs.empty() ? "" : "; ") + std::string(cost_of(help));
  return costs.empty() ? "–" : costs;
}

Cell cell_of(const Estimate& estimate) {
  return interval(estimate.mean, estimate.low, estimate.high);
}

/// One group, read once.
class GroupPart {
 public:
  explicit GroupPart(const Group& group)
      : group_(group), plain_(*group.plain), train_len_(group.plain->train_len()) {
    for (const Run* run : group.mitigated)
      explained(*run, [&] { mitigated_.emplace_back(*run); });
  }

  json panel() const;
  Table table() const;

 private:
  size_t within() const {
    return std::min(plain_.buckets(), static_cast<size_t>(train_len_ / plain_.bucket_tokens()));
  }
  std::vector<Cell> row(const Run& run, const Losses& losses) const;

  const Group& group_;
  Losses plain_;
  std::vector<Losses> mitigated_;
  int64_t train_len_;
};

json GroupPart::panel() const {
  json panel = lines_panel("loss against " + group_.plain->label(),
                           {.label = "position (tokens)", .log = true},
                           {.label = "difference (nats per token)"});
  for (size_t i = 0; i < mitigated_.size(); ++i) {
    const Pairs pairs = pairs_of(plain_, mitigated_[i]);
    std::vector<double> means;
    for (size_t b = 0; b < pairs.buckets; ++b)
      means.push_back(pairs.difference(b, b).mean);
    Series series{
        .name = group_.mitigated[i]->mitigations(), .style = static_cast<int>(i), .x = {}, .y = {}};
    for (const size_t b : thinned(means)) {
      const Estimate estimate = pairs.difference(b, b);
      series.x.push_back(static_cast<double>(plain_.end(b)));
      series.y.push_back(estimate.mean);
      series.low.push_back(estimate.low);
      series.high.push_back(estimate.high);
    }
    add_series(panel, series);
  }
  panel["zero"] = true;
  add_train_lengths(panel, {group_.plain});
  return panel;
}

std::vector<Cell> GroupPart::row(const Run& run, const Losses& losses) const {
  const Pairs pairs = pairs_of(plain_, losses);
  const size_t end = losses.buckets(), split = std::min(within(), end);
  const auto mean = [&](size_t first, size_t past) {
    return first < past ? cell_of(losses.estimate(first, past - 1)) : text("–");
  };
  const auto more = [&](size_t first, size_t past) {
    return &run == group_.plain || first >= past ? text("–")
                                                 : cell_of(pairs.difference(first, past - 1));
  };
  return {text(run.mitigations()),
          text(run.label()),
          mean(0, split),
          more(0, split),
          mean(split, end),
          more(split, end),
          text(costs_of(run.mitigations()))};
}

Table GroupPart::table() const {
  Table table{.caption = fmt::format(
                  "Mitigations of the model of {}: loss (nats per token), and how much more it "
                  "is than without, with 95 % intervals over the same documents",
                  group_.plain->label()),
              .columns = {"mitigation", "run",
                          train_len_ > 0 ? "loss up to " + size_text(train_len_)
                                         : "loss up to the training length",
                          "more than without: the cost",
                          train_len_ > 0 ? "loss past " + size_text(train_len_) : "loss",
                          "more than without: below 0 is a gain", "cost in time and memory"}};
  table.rows.push_back(row(*group_.plain, plain_));
  for (size_t i = 0; i < mitigated_.size(); ++i)
    table.rows.push_back(row(*group_.mitigated[i], mitigated_[i]));
  return table;
}

/// A style per mitigation: the same in every panel.
json legend_of_names(const std::vector<Group>& groups, std::map<std::string, int>& styles) {
  json legend = json::array();
  for (const Group& group : groups)
    for (const Run* run : group.mitigated)
      if (styles.emplace(run->mitigations(), styles.size()).second)
        legend.push_back({{"name", run->mitigations()}, {"style", styles.size() - 1}});
  return legend;
}

}  // namespace

void add_mitigated_losses(Page& page, const Runs& runs) {
  const std::vector<Group> groups = groups_of(runs, tokens_of);
  if (groups.empty())
    return;
  page.section("mitigations", "Mitigations");
  std::map<std::string, int> styles;
  json figure = {{"panels", json::array()}, {"legend", legend_of_names(groups, styles)}};
  std::string tables;
  for (const Group& group : groups)
    explained(*group.plain, [&] {
      const GroupPart part(group);
      json panel = part.panel();
      for (json& series : panel["series"])
        series["style"] = styles.at(series.at("name"));
      figure["panels"].push_back(std::move(panel));
      tables += html_of(part.table());
    });
  page.figure(
      std::move(figure),
      "What each mitigation adds to the loss at every position: above the line it costs, below it "
      "gains. "
      "Differences are of the same documents; bands are their 95 % intervals (Student's t).",
      tables);
}

}  // namespace stuffed::report
