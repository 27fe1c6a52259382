// Passkeys, and the other tasks of retrieval: where they are found, by length and depth.
#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "sections.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/eval/passkey.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::report {

using io::json;

namespace {

constexpr size_t kTableRows = 24;

struct Trial {
  int64_t length = 0, depth = 0,
          distance = 0;  // distance: tokens from the needle to the prompt's end
  double place = 0;      // of the needle, 0 to 1
  double score = 0;      // 0 to 1
  bool is_cut = false;
};

/// Counts of trials; answers that were cut off count for nothing.
struct Share {
  int64_t trials = 0, placed = 0;
  double score = 0;   // sum
  double places = 0;  // sum of the needles' places, cut answers included

  void add(const Trial& trial) {
    trials += !trial.is_cut;
    score += trial.is_cut ? 0 : trial.score;
    ++placed;
    places += trial.place;
  }
  double accuracy() const {
    return trials == 0 ? Axis::kNone : score / static_cast<double>(trials);
  }
  double place() const { return places / static_cast<double>(placed); }
  Cell cell() const {
    if (trials == 0)
      return text("–");
    const eval::ProportionInterval wilson = eval::wilson(score, trials);
    Cell cell = interval(accuracy(), wilson.low, wilson.high);
    cell.html += fmt::format(" <small>{:.6g} of {}</small>", score, trials);
    return cell;
  }
};

struct Answers {
  const Run* run;
  int style = 0;
  std::vector<int64_t> lengths = {};
  std::map<int64_t, Share> by_length = {};
  std::map<std::pair<int64_t, int64_t>, Share> by_depth = {};    // length and depth
  std::map<int64_t, std::map<int64_t, Share>> within_last = {};  // tokens, then length
  int64_t depths = 0;
};

Trial read_passkey(const json& record) {
  const int64_t blocks = io::read_integer(record, "blocks", 1);
  return {.length = io::read_integer(record, "length_tokens", 1),
          .depth = io::read_integer(record, "depth_index"),
          .distance =
              io::read_integer(record, "prompt_tokens") - io::read_integer(record, "needle_token"),
          .place = static_cast<double>(io::read_integer(record, "position_blocks")) /
                   static_cast<double>(std::max<int64_t>(1, blocks - 1)),
          .score = io::read_flag(record, "correct") ? 1.0 : 0.0,
          .is_cut = record.value("answer_cut", false)};
}

/// Answers of a file have no known place: the middle, of the only depth.
Trial read_retrieval(const json& record) {
  const bool has_place = record.contains("needle_token");
  return {.length = io::read_integer(record, "length_tokens", 1),
          .depth = io::read_integer(record, "depth_index"),
          .distance = has_place ? io::read_integer(record, "prompt_tokens") -
                                      io::read_integer(record, "needle_token")
                                : io::kMostTokens,
          .place = has_place ? record.at("real_depth").get<double>() : 0.5,
          .score = record.at("score").get<double>(),
          .is_cut = record.value("answer_cut", false)};
}

/// Needles within the last l tokens, l the powers of two from 1/16 to 1/2 of the longest length, as
/// the summary has them.
void add_within_last(Answers& answers, const Trial& trial) {
  const int64_t longest = answers.lengths.back();
  for (int64_t last = 1; last <= longest / 2; last *= 2)
    if (16 * last >= longest && last <= trial.length && trial.distance <= last)
      answers.within_last[last][trial.length].add(trial);
}

/// Whether anyone knows where the answers are.
bool has_places(const Run& run) {
  return run.config.value("task", json()) != "jsonl";
}

Answers read_answers(const Run& run, int style) {
  Answers answers{
      .run = &run, .style = style, .lengths = io::read_integers(run.config, "lengths_tokens", 1)};
  answers.depths = io::read_integer(run.config, "depths", 1);
  std::ranges::sort(answers.lengths);
  const auto repeated = std::ranges::unique(answers.lengths);
  answers.lengths.erase(repeated.begin(), repeated.end());
  for (const json* record : run.all("len=")) {
    const bool is_passkey = run.schema == "stuffed.passkey";
    (is_passkey ? eval::check_passkey_record : eval::check_retrieval_record)(*record,
                                                                             answers.depths);
    const Trial trial = (is_passkey ? read_passkey : read_retrieval)(*record);
    answers.by_length[trial.length].add(trial);
    answers.by_depth[{trial.length, trial.depth}].add(trial);
    add_within_last(answers, trial);
  }
  return answers;
}

/// Cells of one length from the top: each reaches half-way to its neighbours, the outermost to 0 and
/// 1. Cells whose needles are at one place (there are fewer blocks than depths) are one.
void add_column(json& panel, const Answers& answers, size_t column) {
  std::map<double, Share> places;
  for (int64_t depth = 0; depth < answers.depths; ++depth) {
    const auto cell = answers.by_depth.find({answers.lengths[column], depth});
    if (cell == answers.by_depth.end())
      continue;
    Share& share = places[cell->second.place()];
    share.trials += cell->second.trials;
    share.score += cell->second.score;
  }
  double top = 0;
  for (auto at = places.begin(); at != places.end(); ++at) {
    const auto next = std::next(at);
    const double bottom = next == places.end() ? 1 : (at->first + next->first) / 2;
    panel["column"].push_back(column);
    panel["top"].push_back(100 * top);
    panel["bottom"].push_back(100 * bottom);
    panel["values"].push_back(io::number_or_null(at->second.accuracy()));
    panel["text"].push_back(fmt::format("{:.6g} of {}", at->second.score, at->second.trials));
    top = bottom;
  }
}

json heat_map(const Answers& answers) {
  json panel = {{"kind", "cells"},
                {"title", answers.run->label() + ", by depth"},
                {"x", {{"label", "length (tokens)"}}},
                {"y", {{"label", "depth of the needle (%)"}}},
                {"value", {{"label", "accuracy"}}}};
  for (const char* field : {"names", "column", "top", "bottom", "values", "text"})
    panel[field] = json::array();
  for (size_t column = 0; column < answers.lengths.size(); ++column) {
    panel["names"].push_back(size_text(answers.lengths[column]));
    add_column(panel, answers, column);
  }
  return panel;
}

Series curve_of(const std::string& name, int style, const std::map<int64_t, Share>& by_length) {
  Series series{.name = name, .style = style, .x = {}, .y = {}, .has_points = true};
  for (const auto& [length, share] : by_length) {
    if (share.trials == 0)
      continue;
    const eval::ProportionInterval wilson = eval::wilson(share.score, share.trials);
    series.x.push_back(static_cast<double>(length));
    series.y.push_back(share.accuracy());
    series.low.push_back(wilson.low);
    series.high.push_back(wilson.high);
  }
  return series;
}

const Axis kLengths = {.label = "length (tokens)", .log = true};
const Axis kAccuracy = {.label = "accuracy", .least = 0, .most = 1};

json curves(const std::vector<Answers>& all, const Runs& runs) {
  json figure = {{"panels", json::array()}, {"legend", legend_of(runs)}};
  json panel = lines_panel("all depths", kLengths, kAccuracy);
  for (const Answers& answers : all)
    add_series(panel, curve_of(answers.run->label(), answers.style, answers.by_length));
  add_train_lengths(panel, runs);
  figure["panels"].push_back(std::move(panel));
  return figure;
}

json last_tokens_panel(const Answers& answers) {
  json panel =
      lines_panel(answers.run->label() + ", needle within the last tokens", kLengths, kAccuracy);
  int style = 0;
  for (const auto& [last, shares] : answers.within_last)
    add_series(panel, curve_of("last " + size_text(last), style++, shares));
  add_train_lengths(panel, {answers.run});
  panel["own_legend"] = true;
  return panel;
}

Cell share_of(const std::map<int64_t, Share>& shares, int64_t length) {
  const auto found = shares.find(length);
  return found == shares.end() ? text("–") : found->second.cell();
}

/// Lengths of the tables that have many columns.
std::vector<int64_t> some_lengths(const Answers& answers) {
  std::vector<int64_t> lengths;
  for (const size_t i : spaced(answers.lengths.size(), kTableRows))
    lengths.push_back(answers.lengths[i]);
  return lengths;
}

/// What tables of lengths are of: the captions of a page differ.
bool are_passkeys(const std::vector<Answers>& all) {
  return all.front().run->schema == "stuffed.passkey";
}

/// Of all lengths, or of as many as one looks at.
Table table_of_lengths(const std::vector<Answers>& all, bool is_whole) {
  Table table{.caption = std::string(are_passkeys(all) ? "Accuracy" : "Mean score") +
                         " by length over all depths, with Wilson's 95 % interval",
              .columns = {}};
  table.columns.emplace_back("length (tokens)");
  std::set<int64_t> lengths;
  for (const Answers& answers : all) {
    table.columns.push_back(answers.run->label());
    for (const int64_t length : is_whole ? answers.lengths : some_lengths(answers))
      lengths.insert(length);
  }
  for (const int64_t length : lengths) {
    std::vector<Cell> row = {count(length)};
    for (const Answers& answers : all)
      row.push_back(share_of(answers.by_length, length));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table table_of_depths(const Answers& answers) {
  Table table{.caption = answers.run->label() +
                         ": accuracy by length and depth, with Wilson's 95 % interval",
              .columns = {}};
  table.columns.emplace_back("length (tokens)");
  for (int64_t depth = 0; depth < answers.depths; ++depth)
    table.columns.push_back(fmt::format("depth {} of {}", depth + 1, answers.depths));
  for (const int64_t length : some_lengths(answers)) {
    std::vector<Cell> row = {count(length)};
    for (int64_t depth = 0; depth < answers.depths; ++depth) {
      const auto cell = answers.by_depth.find({length, depth});
      row.push_back(cell == answers.by_depth.end() ? text("–") : cell->second.cell());
    }
    table.rows.push_back(std::move(row));
  }
  return table;
}

Table table_of_last(const Answers& answers) {
  Table table{
      .caption = answers.run->label() +
                 ": accuracy for needles within the last tokens, with Wilson's 95 % interval",
      .columns = {}};
  table.columns.emplace_back("length (tokens)");
  for (const auto& [last, shares] : answers.within_last)
    table.columns.push_back("within the last " + size_text(last));
  for (const int64_t length : some_lengths(answers)) {
    std::vector<Cell> row = {count(length)};
    for (const auto& [last, shares] : answers.within_last)
      row.push_back(share_of(shares, length));
    table.rows.push_back(std::move(row));
  }
  return table;
}

Cell tokens_or_none(const json& summary, const char* field) {
  const int64_t tokens = io::read_integer(summary.at("effective_length"), field);
  return tokens == 0 ? text("none") : count(tokens);
}

Table table_of_effective(const std::vector<Answers>& all) {
  Table table{
      .caption = std::string(are_passkeys(all) ? "Effective length" : "Effective length of tasks") +
                 ": the longest that passes with all shorter ones (tokens), by accuracy and by the "
                 "ends of its interval",
      .columns = {"run", "passes above", "by accuracy", "by the interval's low end",
                  "by its high end"}};
  for (const Answers& answers : all)
    if (const json* const summary = answers.run->find("summary"))
      table.rows.push_back(
          {text(answers.run->label()), value(summary->at("effective_length").at("threshold")),
           tokens_or_none(*summary, "tokens"), tokens_or_none(*summary, "low_tokens"),
           tokens_or_none(*summary, "high_tokens")});
  return table;
}

struct Section {
  const char *id, *title, *caption;
};

void add_section(Page& page, const Runs& runs, const Section& section) {
  if (runs.empty())
    return;
  page.section(section.id, section.title);
  std::vector<Answers> all;
  Runs drawn;
  for (const Run* run : runs)
    explained(*run, [&] {
      Answers answers = read_answers(*run, static_cast<int>(drawn.size()));
      if (answers.by_length.empty())
        return page.warn(run->label() + ": no trial is measured yet");
      all.push_back(std::move(answers));
      drawn.push_back(run);
    });
  if (all.empty())
    return;
  json figure = curves(all, drawn);
  std::string folded, effective;
  if (std::ranges::any_of(all, [](const Answers& one) { return one.lengths.size() > kTableRows; }))
    folded = html_of(table_of_lengths(all, true));
  for (const Answers& answers : all) {
    if (!has_places(*answers.run))
      continue;
    figure["panels"].push_back(heat_map(answers));
    if (!answers.within_last.empty())
      figure["panels"].push_back(last_tokens_panel(answers));
    folded += html_of(table_of_depths(answers)) + html_of(table_of_last(answers));
  }
  explained(*drawn.front(), [&] { effective = html_of(table_of_effective(all)); });
  page.figure(std::move(figure), section.caption,
              html_of(table_of_lengths(all, false)) + effective + mitigated_passkeys(drawn) +
                  details("More numbers: by depth, and within the last tokens", folded, false));
}

}  // namespace

void add_passkeys(Page& page, const Runs& runs) {
  add_section(
      page, runs,
      {"passkey", "Passkey retrieval",
       "How often the passkey is found: by length over all depths; by length and depth, a "
       "cell drawn where its needles are, hatched without a trial; and where it lies within "
       "the last tokens. Bands are Wilson's 95 % intervals."});
}

void add_retrieval(Page& page, const Runs& runs) {
  add_section(
      page, runs,
      {"retrieval", "Retrieval tasks",
       "Which share of what is asked for is found: by length over all depths; by length and "
       "depth, a cell drawn where its needles are, hatched without a trial; and where the "
       "first needle lies within the last tokens. Bands are Wilson's 95 % intervals, of the "
       "mean score."});
}

}  // namespace stuffed::report
