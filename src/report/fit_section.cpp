// Fits of the two laws: points, curves with their bands, the paper's beside them.
#include <fmt/format.h>

#include "sections.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::report {

using io::json;

namespace {

bool is_forget(const Run& run) {
  return run.config.at("law") == "forget";
}

std::vector<double> numbers(const json& values) {
  std::vector<double> found;
  for (const json& value : values)
    found.push_back(number_of(value));
  return found;
}

/// A band only where there is one.
Series curve_of(const Run& run, const json& curve, int style) {
  Series series{.name = run.label(),
                .style = style,
                .x = numbers(curve.at("state_elements")),
                .y = numbers(curve.at("tokens"))};
  if (!curve.at("low_tokens").at(0).is_null()) {
    series.low = numbers(curve.at("low_tokens"));
    series.high = numbers(curve.at("high_tokens"));
  }
  return series;
}

std::string sign_of(const json& point) {
  const std::string censored = io::read_text(point, "censored");
  return censored == "no" ? "" : censored == "at most" ? "\u2264 " : "\u2265 ";
}

void add_points(json& panel, const Run& run, int style) {
  for (const json* point : run.all("point/"))
    add_point(panel, number_of(point->at("state_elements")), number_of(point->at("tokens")), style,
              fmt::format("{}: {}{} tokens at {} state elements", run.label(), sign_of(*point),
                          point->at("tokens").dump(), point->at("state_elements").dump()));
}

json panel_of(const Runs& runs, bool forget, json& legend) {
  json panel = lines_panel(
      forget ? "shortest training length without collapse" : "longest prompt that is recalled",
      {.label = "state (elements)", .least = 0},
      {.label = forget ? "training length (tokens)" : "length (tokens)"});
  int style = 0;
  for (const Run* run : runs)
    explained(*run, [&] {
      const json* const summary = run->find("summary");
      if (is_forget(*run) != forget || summary == nullptr)
        return;
      add_series(panel, curve_of(*run, summary->at("curve"), style));
      add_points(panel, *run, style);
      legend.push_back({{"name", run->label()}, {"style", style}, {"hidden", false}});
      ++style;
      Series paper{.name = "the paper's, beside " + run->label(),
                   .style = style,
                   .x = numbers(summary->at("curve").at("state_elements")),
                   .y = numbers(summary->at("curve").at("paper_tokens"))};
      add_series(panel, paper);
      legend.push_back({{"name", paper.name}, {"style", style}, {"hidden", false}});
      ++style;
    });
  return panel;
}

Table coefficients_of(const Run& run, const json& summary) {
  Table table{
      .caption = fmt::format("{}: {}, S in millions of state elements, T in thousands of tokens",
                             run.label(), io::read_text(summary, "form")),
      .columns = {"coefficient", "value and 95 % interval", "the paper's", "difference"}};
  const json& paper = summary.at("paper");
  for (const auto& [name, found] : summary.at("coefficients").items())
    table.rows.push_back({text(name),
                          interval(number_of(found.at("value")), number_of(found.at("low")),
                                   number_of(found.at("high"))),
                          value(paper.at("coefficients").at(name)),
                          value(paper.at("difference").at(name))});
  table.rows.push_back({text("R\u00b2"), value(summary.at("r_squared")),
                        text(fmt::format("above {:g}", number_of(paper.at("r_squared_above")))),
                        text("\u2013")});
  return table;
}

Table points_of(const Run& run) {
  Table table{
      .caption = run.label() + ": the points, one per state size and training seed",
      .columns = {"state (elements)", "training seed", "tokens", "low (tokens)", "high (tokens)"}};
  for (const json* point : run.all("point/"))
    table.rows.push_back({value(point->at("state_elements")), value(point->at("seed")),
                          text(sign_of(*point) + point->at("tokens").dump()),
                          value(point->at("low_tokens")), value(point->at("high_tokens"))});
  return table;
}

std::string tables_of(const Run& run) {
  const json& summary = *run.find("summary");
  const json& bootstrap = summary.at("bootstrap");
  std::string html = html_of(coefficients_of(run, summary)) + html_of(points_of(run));
  if (const auto undetermined = io::read_integer(bootstrap, "undetermined"); undetermined > 0)
    html +=
        paragraph(fmt::format("Of {} draws of the bootstrap {} decide no curve and are left out.",
                              io::read_integer(bootstrap, "draws"), undetermined));
  return html;
}

void add_law(Page& page, const Runs& runs, bool forget) {
  json figure = {{"panels", json::array()}, {"legend", json::array()}};
  json panel = panel_of(runs, forget, figure["legend"]);
  std::string tables;
  for (const Run* run : runs)
    explained(*run, [&] {
      if (is_forget(*run) == forget && run->find("summary") != nullptr)
        tables += tables_of(*run);
    });
  if (tables.empty())
    return;
  figure["panels"].push_back(std::move(panel));
  page.figure(std::move(figure),
              forget ? "The shortest training length without collapse over the size of the state, "
                       "with the line of the greatest likelihood and its 95 % band by bootstrap."
                     : "The longest prompt whose passkey is found over the size of the state, with "
                       "the exponential of the greatest likelihood and its 95 % band by bootstrap.",
              tables);
}

}  // namespace

void add_fits(Page& page, const Runs& runs) {
  if (runs.empty())
    return;
  page.section("fit", "State size, forgetting and recall");
  for (const Run* run : runs)
    if (run->find("summary") == nullptr)
      page.warn(run->label() + ": holds no fit yet");
  for (const bool forget : {true, false})
    add_law(page, runs, forget);
}

}  // namespace stuffed::report
