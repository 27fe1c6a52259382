// Which results are on the page, and how each was made.
#include <fmt/format.h>

#include "sections.h"

namespace stuffed::report {

using io::json;

namespace {

std::string text_in(const json& object, const char* name) {
  const json found = object.is_object() ? object.value(name, json()) : json();
  return found.is_null() ? "–" : found.is_string() ? found.get<std::string>() : found.dump();
}

/// Family and the beginning of the hash of a model.
std::string model_of(const Run& run) {
  const json model = run.config.value("model", json());
  if (model.is_string())
    return model.get<std::string>();
  if (!model.is_object() || !model.contains("sha256"))
    return text_in(run.config, "family");
  return fmt::format("{} {}", text_in(model, "family"), text_in(model, "sha256").substr(0, 8));
}

std::string command_of(const Run& run) {
  std::string command = run.schema.substr(run.schema.find('.') + 1);
  for (char& c : command)
    c = c == '_' ? '-' : c;
  return command;
}

/// As a shell reads it.
std::string quoted(const std::string& argument) {
  const bool plain =
      !argument.empty() && argument.find_first_not_of(
                               "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "@%+=:,./_-") == argument.npos;
  if (plain)
    return argument;
  std::string out = "'";
  for (const char c : argument)
    out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

std::string command_line_of(const Run& run) {
  std::string line;
  for (const json& argument : run.provenance.value("command_line", json::array()))
    line += (line.empty() ? "" : " ") + quoted(argument.get<std::string>());
  return line;
}

std::vector<Cell> row_of(const Run& run) {
  return {text(run.name),
          text(run.finished ? "finished" : "unfinished"),
          text(command_of(run)),
          text(model_of(run)),
          text(text_in(run.config, "dtype")),
          text(run.config.contains("mitigations") ? run.mitigations() : "–"),
          run.train_len() > 0 ? count(run.train_len()) : text("–"),
          count(std::ssize(run.records)),
          text(text_in(run.provenance, "started_utc"))};
}

std::string list_of(const json& object) {
  std::string list;
  for (const auto& [name, field] : object.items())
    if (name != "command_line")
      list += fmt::format("<dt>{}</dt><dd>{}</dd>\n", escaped(name),
                          escaped(field.is_string() ? field.get<std::string>() : field.dump()));
  return fmt::format("<dl>\n{}</dl>\n", list);
}

}  // namespace

void add_overview(Page& page, const std::vector<Run>& runs) {
  page.section("results", "Results");
  Table table{.caption = "What is on this page",
              .columns = {"result", "state", "command", "model", "dtype", "mitigations",
                          "trained at (tokens)", "records", "begun (UTC)"}};
  for (const Run& run : runs)
    explained(run, [&] { table.rows.push_back(row_of(run)); });
  page.add(html_of(table));
  std::string unfinished;
  for (const Run& run : runs)
    if (!run.finished)
      unfinished += (unfinished.empty() ? "" : ", ") + run.name;
  if (!unfinished.empty())
    page.warn("Unfinished, drawn as far as they go: " + unfinished +
              ". Run the command of each again to resume it.");
}

void add_provenance(Page& page, const std::vector<Run>& runs) {
  page.section("provenance", "How each result was made");
  for (const Run& run : runs)
    explained(run, [&] {
      const std::string command = command_line_of(run);
      const std::string shown =
          command.empty()
              ? ""
              : fmt::format("<pre class=\"command\" tabindex=\"0\"><code>{}</code></pre>\n",
                            escaped(command));
      page.heading(run.label());
      page.add(shown + details("Provenance", list_of(run.provenance), false) +
               details("Configuration: what decides its numbers", list_of(run.config), false));
    });
}

}  // namespace stuffed::report
