// Training: losses over the steps, and the validation loss by position.
#include <algorithm>
#include <cmath>
#include <map>

#include <fmt/format.h>

#include "sections.h"

namespace stuffed::report {

using io::json;

namespace {

constexpr size_t kMostCurves = 6;  // validations of one source: from the first to the last
constexpr size_t kTableRows = 12;

using Validations = std::map<std::string, std::vector<const json*>>;

Validations validations_of(const Run& run) {
  Validations found;
  for (const json* record : run.all("validation/"))
    found[record->at("source").get<std::string>()].push_back(record);
  return found;
}

/// At most `most` of n, equally spaced, the first and the last included.
std::vector<size_t> evenly(size_t n, size_t most) {
  std::vector<size_t> kept;
  for (size_t i = 0; i < std::min(n, most); ++i)
    kept.push_back(n <= most ? i : i * (n - 1) / (most - 1));
  return kept;
}

void add_steps(json& panel, const Run& run, int style) {
  Series series{.name = run.label(), .style = style, .x = {}, .y = {}};
  const std::vector<const json*> steps = run.all("step=");
  for (const size_t i : evenly(steps.size(), 400)) {
    series.x.push_back(steps[i]->at("step").get<double>());
    series.y.push_back(number_of(steps[i]->at("loss_nats")));
  }
  add_series(panel, series);
  for (const json* spike : run.all("spike/"))
    add_point(panel, spike->at("step").get<double>(), number_of(spike->at("loss_nats")), style,
              fmt::format("{}: spike at step {}", run.label(), spike->at("step").dump()));
}

/// Within and past the training length, over the steps.
json validation_panel(const std::string& source, const Runs& runs) {
  json panel =
      lines_panel("validation: " + source, {.label = "step"}, {.label = "loss (nats per token)"});
  for (size_t i = 0; i < runs.size(); ++i) {
    const Validations all = validations_of(*runs[i]);
    const auto found = all.find(source);
    if (found == all.end())
      continue;
    for (const auto& [field, name] :
         {std::pair{"within_length_nats", ", within"}, {"beyond_length_nats", ", past"}}) {
      Series series{.name = runs[i]->label() + name,
                    .style = static_cast<int>(i),
                    .x = {},
                    .y = {},
                    .has_points = true};
      series.is_dashed = std::string_view(field) == "beyond_length_nats";
      for (const json* record : found->second)
        if (record->contains(field)) {
          series.x.push_back(record->at("step").get<double>());
          series.y.push_back(number_of(record->at(field)));
        }
      if (!series.x.empty())
        add_series(panel, series);
    }
  }
  return panel;
}

json position_panel(const Run& run,
                    const std::string& source,
                    const std::vector<const json*>& records) {
  json panel = lines_panel(fmt::format("{}: {}", run.label(), source),
                           {.label = "position (tokens)", .log = true},
                           {.label = "validation loss (nats per token)"});
  for (const size_t i : evenly(records.size(), kMostCurves)) {
    const std::vector<double> ends = records[i]->at("position_ends").get<std::vector<double>>();
    Series series{.name = fmt::format("step {}", records[i]->at("step").dump()),
                  .x = ends,
                  .y = {},
                  .shade = records.size() > 1
                               ? static_cast<double>(i) / static_cast<double>(records.size() - 1)
                               : 1,
                  .has_points = true};
    for (const json& nats : records[i]->at("by_position_nats"))
      series.y.push_back(number_of(nats));
    add_series(panel, series);
  }
  const auto length = run.config.at("length_tokens").get<int64_t>();
  add_rule(panel, static_cast<double>(length), "trained at " + size_text(length));
  panel["scale"] = {{"label", "step"},
                    {"least", records.front()->at("step")},
                    {"most", records.back()->at("step")}};
  return panel;
}

std::vector<const json*> with_positions(const std::vector<const json*>& records) {
  std::vector<const json*> found;
  for (const json* record : records)
    if (record->contains("by_position_nats"))
      found.push_back(record);
  return found;
}

Table steps_table(const Run& run) {
  Table table{
      .caption = run.label() + ": training loss",
      .columns = {"step", "tokens", "loss (nats per token)", "learning rate", "gradient norm"}};
  const std::vector<const json*> steps = run.all("step=");
  for (const size_t i : evenly(steps.size(), kTableRows))
    table.rows.push_back({value(steps[i]->at("step")), value(steps[i]->at("tokens")),
                          value(steps[i]->at("loss_nats")), value(steps[i]->at("learning_rate")),
                          value(steps[i]->at("gradient_norm"))});
  return table;
}

Table spikes_table(const Run& run) {
  Table table{.caption = run.label() + ": spikes",
              .columns = {"step", "loss (nats per token)", "expected"}};
  for (const json* spike : run.all("spike/"))
    table.rows.push_back({value(spike->at("step")), value(spike->at("loss_nats")),
                          value(spike->at("expected_nats"))});
  return table;
}

Table validation_table(const Run& run) {
  Table table{.caption = run.label() + ": validation loss (nats per token)",
              .columns = {"source", "step", "within the training length", "past it"}};
  for (const auto& [source, records] : validations_of(run))
    for (const size_t i : evenly(records.size(), kMostCurves))
      table.rows.push_back({text(source), value(records[i]->at("step")),
                            value(records[i]->at("within_length_nats")),
                            value(records[i]->value("beyond_length_nats", json()))});
  return table;
}

std::string position_tables(const Run& run) {
  std::string tables;
  for (const auto& [source, all] : validations_of(run)) {
    const std::vector<const json*> records = with_positions(all);
    if (records.empty())
      continue;
    Table table{.caption = fmt::format("{}, {}: last validation, loss (nats per token) by position",
                                       run.label(), source),
                .columns = {"up to (tokens)", "loss"}};
    const json& last = *records.back();
    for (size_t i = 0; i < last.at("position_ends").size(); ++i)
      table.rows.push_back(
          {value(last.at("position_ends").at(i)), value(last.at("by_position_nats").at(i))});
    tables += html_of(table);
  }
  return tables;
}

void add_positions(Page& page, const Runs& runs) {
  json figure = {{"panels", json::array()}};
  std::string tables;
  for (const Run* run : runs)
    explained(*run, [&] {
      for (const auto& [source, all] : validations_of(*run))
        if (const auto records = with_positions(all); !records.empty())
          figure["panels"].push_back(position_panel(*run, source, records));
      tables += position_tables(*run);
    });
  if (!figure["panels"].empty())
    page.figure(std::move(figure),
                "Validation loss by position; shades go from the first validation to the last.",
                details("Numbers by position", tables, false));
}

std::string numbers_of(const Runs& runs) {
  std::string tables;
  for (const Run* run : runs)
    explained(*run, [&] {
      tables += html_of(steps_table(*run)) + html_of(validation_table(*run));
      if (!run->all("spike/").empty())
        tables += html_of(spikes_table(*run));
    });
  return details("Numbers over the steps", tables, false);
}

}  // namespace

void add_training(Page& page, const Runs& runs) {
  Runs begun;
  std::map<std::string, bool> sources;
  if (runs.empty())
    return;
  page.section("training", "Training");
  for (const Run* run : runs)
    explained(*run, [&] {
      if (run->all("step=").empty())
        return page.warn(run->label() + ": no step is recorded yet");
      begun.push_back(run);
      for (const auto& [source, records] : validations_of(*run))
        sources[source] = true;
    });
  if (begun.empty())
    return;
  json figure = {{"panels", json::array()}, {"legend", legend_of(begun)}};
  json losses = lines_panel("training loss", {.label = "step"}, {.label = "loss (nats per token)"});
  for (size_t i = 0; i < begun.size(); ++i)
    explained(*begun[i], [&] { add_steps(losses, *begun[i], static_cast<int>(i)); });
  figure["panels"].push_back(std::move(losses));
  for (const auto& [source, there] : sources)
    explained(*begun.front(), [&] { figure["panels"].push_back(validation_panel(source, begun)); });
  page.figure(std::move(figure),
              "Losses over the steps; triangles are spikes. Validation within the training length, "
              "and past it "
              "(dotted).",
              numbers_of(begun));
  add_positions(page, begun);
}

}  // namespace stuffed::report
