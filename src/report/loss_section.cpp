// Loss by position: the runs over one another, by three definitions.
#include <algorithm>
#include <cmath>
#include <functional>

#include <fmt/format.h>

#include "losses.h"
#include "sections.h"

namespace stuffed::report {

using io::json;

namespace {

constexpr size_t kTableRows = 12;
constexpr size_t kMostDocuments = 200;

struct Shown {
  const Run* run;
  Losses losses;
  int style;
  bool has_onset = false;  // a training length was given
  json onset = {};         // where the loss collapses: tokens, null (nowhere) or "unknown"
};

/// Which buckets a definition takes for the loss at bucket b.
struct Definition {
  std::string title, column;
  std::function<std::pair<size_t, size_t>(const Losses&, size_t)> buckets;
};

std::vector<Definition> definitions(int64_t last_tokens) {
  return {{"bucket at the position", "bucket at the position",
           [](const Losses&, size_t b) {
             return std::pair{b, b};
           }},
          {"mean over the whole prefix", "mean over the prefix",
           [](const Losses&, size_t b) {
             return std::pair{size_t{0}, b};
           }},
          {fmt::format("last {} tokens before the position", size_text(last_tokens)),
           fmt::format("last {}", size_text(last_tokens)),
           [last_tokens](const Losses& losses, size_t b) {
             return std::pair{losses.first_of_last(b, last_tokens), b};
           }}};
}

/// Means of every bucket, each a constant number of steps from the one before.
std::vector<double> means_of(const Losses& losses, const Definition& definition) {
  std::vector<double> means;
  for (size_t b = 0; b < losses.buckets(); ++b) {
    const auto [first, last] = definition.buckets(losses, b);
    means.push_back(losses.mean(first, last));
  }
  return means;
}

void add_curve(json& panel, const Shown& shown, const Definition& definition) {
  Series series{.name = shown.run->label(), .style = shown.style, .x = {}, .y = {}};
  for (const size_t b : thinned(means_of(shown.losses, definition))) {
    const auto [first, last] = definition.buckets(shown.losses, b);
    const Estimate estimate = shown.losses.estimate(first, last);
    series.x.push_back(static_cast<double>(shown.losses.end(b)));
    series.y.push_back(estimate.mean);
    series.low.push_back(estimate.low);
    series.high.push_back(estimate.high);
  }
  add_series(panel, series);
}

void add_onset(json& panel, const Shown& shown) {
  if (!shown.onset.is_number())
    return;
  const auto onset = shown.onset.get<int64_t>();
  const auto b = std::min(static_cast<size_t>(onset / shown.losses.bucket_tokens()),
                          shown.losses.buckets() - 1);
  add_point(panel, static_cast<double>(shown.losses.end(b)), shown.losses.mean(b, b), shown.style,
            fmt::format("{}: collapse at {}", shown.run->label(), size_text(onset)));
}

json figure_of(const std::vector<Shown>& shown, const Runs& runs, int64_t last_tokens) {
  json figure = {{"panels", json::array()}, {"legend", legend_of(runs)}, {"exp", "perplexity"}};
  for (const Definition& definition : definitions(last_tokens)) {
    json panel = lines_panel(definition.title, {.label = "position (tokens)", .log = true},
                             {.label = "loss (nats per token)"});
    for (const Shown& one : shown)
      add_curve(panel, one, definition);
    add_train_lengths(panel, runs);
    if (figure["panels"].empty())
      for (const Shown& one : shown)
        add_onset(panel, one);
    figure["panels"].push_back(std::move(panel));
  }
  return figure;
}

/// Buckets spaced in the logarithm, and the one where the training length ends.
std::vector<size_t> rows_of(const Shown& shown) {
  std::vector<size_t> rows = spaced(shown.losses.buckets(), kTableRows);
  const int64_t train_len = shown.run->train_len();
  const auto at =
      static_cast<size_t>(std::max<int64_t>(0, train_len - 1) / shown.losses.bucket_tokens());
  if (train_len > 0 && at < shown.losses.buckets() && std::ranges::find(rows, at) == rows.end())
    rows.insert(std::ranges::lower_bound(rows, at), at);
  return rows;
}

Table table_of(const Shown& shown, int64_t last_tokens) {
  Table table{.caption = fmt::format("{}: loss (nats per token) at positions, with 95 % intervals",
                                     shown.run->label()),
              .columns = {}};
  table.columns.emplace_back("position (tokens)");
  const std::vector<Definition> all = definitions(last_tokens);
  for (const Definition& definition : all)
    table.columns.push_back(definition.column);
  table.columns.emplace_back("perplexity of the bucket");
  for (const size_t b : rows_of(shown)) {
    std::vector<Cell> row = {count(shown.losses.end(b))};
    for (const Definition& definition : all) {
      const auto [first, last] = definition.buckets(shown.losses, b);
      const Estimate estimate = shown.losses.estimate(first, last);
      row.push_back(interval(estimate.mean, estimate.low, estimate.high));
    }
    row.push_back(number(std::exp(shown.losses.mean(b, b))));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Cell onset_cell(const Shown& shown) {
  return !shown.has_onset ? text("–") : shown.onset.is_null() ? text("none") : value(shown.onset);
}

/// The whole story in a row per run.
Table summary_of(const std::vector<Shown>& shown) {
  Table table{.caption = "Loss (nats per token) of each run, with 95 % intervals over documents",
              .columns = {"run", "documents", "tokens", "trained at", "mean up to there",
                          "mean past it", "last bucket", "collapse at"}};
  for (const Shown& one : shown) {
    const Losses& losses = one.losses;
    const int64_t train_len = one.run->train_len();
    const size_t end = losses.buckets();
    const auto within = std::min(end, static_cast<size_t>(train_len / losses.bucket_tokens()));
    const auto part = [&](size_t first, size_t past) {
      if (train_len == 0 || first >= past)
        return text("–");
      const Estimate estimate = losses.estimate(first, past - 1);
      return interval(estimate.mean, estimate.low, estimate.high);
    };
    const Estimate last = losses.estimate(end - 1, end - 1);
    table.rows.push_back({text(one.run->label()), count(std::ssize(losses.documents())),
                          count(losses.end(end - 1)), train_len > 0 ? count(train_len) : text("–"),
                          part(0, within), part(within, end),
                          interval(last.mean, last.low, last.high), onset_cell(one)});
  }
  return table;
}

Table documents_of(const Shown& shown) {
  const auto& documents = shown.losses.documents();
  Table table{.caption = shown.run->label() + ": documents",
              .columns = {"document", "name", "targets", "mean loss (nats per token)",
                          "targets not finite"}};
  for (size_t i = 0; i < std::min(documents.size(), kMostDocuments); ++i) {
    double sum = 0;
    for (const double nll : documents[i].nll_sum)
      sum += nll;
    table.rows.push_back(
        {count(documents[i].number), text(documents[i].name), count(documents[i].targets),
         number(sum / static_cast<double>(documents[i].targets)), count(documents[i].not_finite)});
  }
  if (documents.size() > kMostDocuments)
    table.caption += fmt::format(" (the first {} of {})", kMostDocuments, documents.size());
  return table;
}

/// So that those without mitigations, which are always shown, look most unlike one another.
Runs plain_first(Runs runs) {
  std::ranges::stable_partition(runs, [](const Run* run) {
    bool is_plain = false;
    explained(*run, [&] { is_plain = run->mitigations() == "none"; });
    return is_plain;
  });
  return runs;
}

Shown shown_of(const Run& run, int style) {
  Shown shown{.run = &run, .losses = Losses(run), .style = style};
  const json* const summary = run.find("summary");
  shown.has_onset = summary != nullptr && summary->contains("collapse");
  if (shown.has_onset)
    shown.onset = summary->at("collapse").at("onset_tokens");
  return shown;
}

}  // namespace

void add_losses(Page& page, const Runs& runs, int64_t last_tokens) {
  if (runs.empty())
    return;
  page.section("losses", "Loss by position");
  std::vector<Shown> shown;
  Runs drawn;
  for (const Run* run : plain_first(runs))
    explained(*run, [&] {
      Shown one = shown_of(*run, static_cast<int>(drawn.size()));
      if (one.losses.buckets() == 0)
        return page.warn(run->label() + ": no document is measured yet");
      shown.push_back(std::move(one));
      drawn.push_back(run);
    });
  if (shown.empty())
    return;
  std::string folded;
  for (const Shown& one : shown)
    folded += html_of(table_of(one, last_tokens)) + html_of(documents_of(one));
  json figure;
  explained(*drawn.front(), [&] { figure = figure_of(shown, drawn, last_tokens); });
  page.figure(
      std::move(figure),
      "Loss by position, by three definitions: the mean of the bucket that ends at a position, the "
      "mean "
      "over everything up to it, and the mean over the last tokens before it. Bands are 95 % "
      "intervals "
      "over documents (Student's t); a triangle is where the loss collapses.",
      html_of(summary_of(shown)) + details("Numbers at positions, and documents", folded, false));
}

}  // namespace stuffed::report
