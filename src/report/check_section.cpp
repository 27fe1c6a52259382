// Verdicts of `verify` and times of `bench`: tables.
#include <fmt/format.h>

#include "sections.h"

namespace stuffed::report {

using io::json;

namespace {

Cell field(const json& record, const char* name) {
  return value(record.value(name, json()));
}

std::string verdicts_of(const Run& run) {
  Table table{.caption = run.label() + ": do all ways of computing agree",
              .columns = {"what", "against", "verdict", "output: relative RMS", "bound",
                          "state: relative RMS", "bound"}};
  for (const json& record : run.records)
    table.rows.push_back({field(record, "key"), field(record, "against"), field(record, "verdict"),
                          field(record, "output_relative_rms"), field(record, "output_bound"),
                          field(record, "state_relative_rms"), field(record, "state_bound")});
  return html_of(table);
}

std::string times_of(const Run& run) {
  Table table{.caption = run.label() + ": times",
              .columns = {"what", "verdict", "tokens/s", "median (s)", "10 % (s)", "90 % (s)",
                          "share of what the machine allows", "peak memory (MiB)"}};
  for (const json& record : run.records) {
    const json memory = record.value("peak_memory_bytes", json());
    table.rows.push_back(
        {field(record, "key"), field(record, "verdict"), field(record, "tokens_per_s"),
         field(record, "seconds_median"), field(record, "seconds_p10"),
         field(record, "seconds_p90"), field(record, "floor_fraction"),
         number(memory.is_number() ? memory.get<double>() / (1 << 20) : Axis::kNone)});
  }
  return html_of(table);
}

}  // namespace

void add_checks(Page& page, const Runs& verify, const Runs& bench) {
  if (!verify.empty()) {
    page.section("verify", "Verification");
    for (const Run* run : verify)
      explained(*run, [&] { page.add(verdicts_of(*run)); });
  }
  if (!bench.empty()) {
    page.section("bench", "Speed");
    for (const Run* run : bench)
      explained(*run, [&] { page.add(times_of(*run)); });
  }
}

}  // namespace stuffed::report
