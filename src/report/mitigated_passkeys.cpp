// Passkeys that a model finds with a mitigation and without, over the same prompts.
#include <fmt/format.h>

#include "groups.h"
#include "sections.h"
#include "src/eval/compare/intervals.h"
#include "stuffed/eval/passkey.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::report {

using io::json;

namespace {

json prompts_of(const Run& run) {
  json identity = {run.config.at("model").at("sha256"), run.train_len()};
  for (const char* field :
       {"task", "tokenizer", "protocol", "grid", "lengths_tokens", "depths", "trials", "digits",
        "keys", "values", "needles", "text_sha256", "jsonl_sha256", "pairs", "queries", "updates",
        "gap_tokens", "vocabulary", "seed"})
    identity.push_back(run.config.value(field, json()));
  return identity;
}

/// Trials by where they succeed; those whose answer was cut off in either run count for nothing.
struct Counts {
  int64_t both = 0, only_plain = 0, only_mitigated = 0, neither = 0;

  void add(const json& plain, const json& mitigated) {
    if (plain.value("answer_cut", false) || mitigated.value("answer_cut", false))
      return;
    const bool a = io::read_flag(plain, "correct"), b = io::read_flag(mitigated, "correct");
    ++(a ? b ? both : only_plain : b ? only_mitigated : neither);
  }
  int64_t trials() const { return both + only_plain + only_mitigated + neither; }
  Cell accuracy() const {
    if (trials() == 0)
      return text("–");
    const int64_t correct = both + only_mitigated;
    const eval::ProportionInterval wilson = eval::wilson(correct, trials());
    return interval(static_cast<double>(correct) / static_cast<double>(trials()), wilson.low,
                    wilson.high);
  }
  Cell difference() const {
    if (trials() == 0)
      return text("–");
    const auto newcombe =
        eval::comparing::interval_of_shares(both, only_plain, only_mitigated, neither);
    return interval(
        static_cast<double>(only_mitigated - only_plain) / static_cast<double>(trials()),
        newcombe.low, newcombe.high);
  }
};

/// Within the training length and past it.
struct Halves {
  Counts within, past;
};

Halves halves_of(const Run& plain, const Run& mitigated) {
  Halves halves;
  for (const json* record : plain.all("len="))
    if (const json* const other = mitigated.find(record->at("key")))
      (io::read_integer(*record, "length_tokens") <= plain.train_len() ? halves.within
                                                                       : halves.past)
          .add(*record, *other);
  return halves;
}

std::vector<Cell> row_of(const Run& plain, const Run& run) {
  const Halves halves = halves_of(plain, run);
  const bool is_plain = &plain == &run;
  return {text(run.mitigations()),  text(run.label()),
          halves.within.accuracy(), is_plain ? text("–") : halves.within.difference(),
          halves.past.accuracy(),   is_plain ? text("–") : halves.past.difference()};
}

}  // namespace

std::string mitigated_passkeys(const Runs& runs) {
  std::string tables;
  for (const Group& group : groups_of(runs, prompts_of))
    explained(*group.plain, [&] {
      const int64_t train_len = group.plain->train_len();
      const std::string bound = train_len > 0 ? size_text(train_len) : "the training length";
      Table table{
          .caption = fmt::format(
              "Mitigations of the model of {}: accuracy{} with Wilson's 95 % interval, and the "
              "difference with Newcombe's, over the same prompts",
              group.plain->label(),
              group.plain->schema == "stuffed.passkey" ? "" : " (all that is asked for found)"),
          .columns = {"mitigation", "run", "up to " + bound, "more than without", "past " + bound,
                      "more than without"}};
      table.rows.push_back(row_of(*group.plain, *group.plain));
      for (const Run* run : group.mitigated)
        table.rows.push_back(row_of(*group.plain, *run));
      tables += html_of(table);
    });
  return tables;
}

}  // namespace stuffed::report
