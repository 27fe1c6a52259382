// The tables of a sweep's TOML, checked against the options that commands have.
#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "src/sweep/run_table.h"
#include "stuffed/core/error.h"
#include "stuffed/io/regular_file.h"
#include "stuffed/io/toml_text.h"

namespace stuffed::sweep {

namespace fs = std::filesystem;

namespace {

constexpr const char* kShape =
    "a sweep has [defaults] and [[runs]]; a run has a command, options, and optionally name, grid, "
    "only, except";

struct Entry {
  std::string key;  // with dashes
  const toml::node* node;
};

/// In the order of the file, which toml++ forgets.
std::vector<Entry> entries_of(const toml::table& table, const std::string& where) {
  std::vector<Entry> entries;
  for (const auto& [key, node] : table)
    entries.push_back({std::string(key.str()), &node});
  std::ranges::stable_sort(entries, {}, [](const Entry& entry) {
    return std::pair(entry.node->source().begin.line, entry.node->source().begin.column);
  });
  std::set<std::string> keys;
  for (Entry& entry : entries) {
    std::ranges::replace(entry.key, '_', '-');
    check(keys.insert(entry.key).second, Error::Kind::Usage, "{}: '{}' is given twice", where,
          entry.key);
  }
  return entries;
}

/// What the sweep sets itself, or no cell may have.
void check_key(const std::string& key,
               const std::string& command,
               const std::vector<std::string>& options,
               const std::string& where) {
  for (const char* own : {"output", "overwrite", "config", "help", "dry-run"})
    check(key != own, Error::Kind::Usage,
          "{}: '{}' may not be given in a sweep: results go to the folder of the sweep", where,
          key);
  check(std::ranges::find(options, key) != options.end(), Error::Kind::Usage,
        "{}: {} has no option '{}'; 'stuffed {} --help' lists what there is", where, command, key,
        command);
}

class Reader {
 public:
  Reader(const fs::path& config, const OptionsOf& options_of)
      : config_(config.string()), options_of_(options_of) {}

  std::vector<RunTable> read() {
    io::check_regular_file(config_);
    std::ifstream file(config_);
    const toml::table table = io::parse_toml(file, config_);
    std::vector<const toml::table*> runs;
    for (const Entry& entry : entries_of(table, config_))
      if (entry.key == "defaults")
        defaults_ = entries_of(as_table(*entry.node, config_, "defaults"), config_ + ": defaults");
      else if (entry.key == "runs")
        runs = as_tables(*entry.node, config_, "runs");
      else
        fail(Error::Kind::Usage, "{}: '{}' is not known here; {}", config_, entry.key, kShape);
    check(!runs.empty(), Error::Kind::Usage, "{}: has no [[runs]]; {}", config_, kShape);
    std::vector<RunTable> read;
    for (const toml::table* run : runs)
      read.push_back(read_run(*run, fmt::format("{}: runs {}", config_, read.size() + 1)));
    for (const Entry& entry : defaults_)
      check(used_.contains(entry.key), Error::Kind::Usage,
            "{}: defaults: no command of the runs has an option '{}'", config_, entry.key);
    return read;
  }

 private:
  static const toml::table& as_table(const toml::node& node,
                                     const std::string& where,
                                     const std::string& key) {
    check(node.is_table(), Error::Kind::Usage, "{}: '{}' is not a table", where, key);
    return *node.as_table();
  }
  static std::vector<const toml::table*> as_tables(const toml::node& node,
                                                   const std::string& where,
                                                   const std::string& key) {
    check(node.is_array() && !node.as_array()->empty(), Error::Kind::Usage,
          "{}: '{}' is not an array of tables; write [[{}]]", where, key, key);
    std::vector<const toml::table*> tables;
    for (const toml::node& element : *node.as_array())
      tables.push_back(&as_table(element, where, key));
    return tables;
  }

  std::string text(const toml::node& node, const std::string& where, const char* key) const {
    check(node.is_string(), Error::Kind::Usage, "{}: '{}' is not a string", where, key);
    return io::toml_texts(node, where, key).front();
  }

  RunTable read_run(const toml::table& table, const std::string& where) {
    RunTable run;
    run.where = where;
    const std::vector<Entry> entries = entries_of(table, where);
    for (const Entry& entry : entries)
      if (entry.key == "command")
        run.command = text(*entry.node, where, "command");
    check(!run.command.empty(), Error::Kind::Usage, "{}: has no command", where);
    const auto options = options_of_(run.command);
    check(options.has_value(), Error::Kind::Usage,
          "{}: command = \"{}\" cannot be run by a sweep; see `stuffed sweep --help`", where,
          run.command);
    for (const Entry& entry : defaults_)
      if (std::ranges::find(*options, entry.key) != options->end()) {
        check_key(entry.key, run.command, *options, config_ + ": defaults");
        used_.insert(entry.key);
        run.settings.push_back({entry.key, io::toml_texts(*entry.node, config_, entry.key)});
      }
    for (const Entry& entry : entries)
      read_entry(entry, *options, run);
    for (const Axis& axis : run.axes)
      check(std::ranges::find(entries, axis.key, &Entry::key) == entries.end(), Error::Kind::Usage,
            "{}: '{}' is an option of the run and an axis of its grid", where, axis.key);
    for (const Entry& entry : entries)  // what these name must be there
      if (entry.key == "only" || entry.key == "except")
        for (const toml::table* match : as_tables(*entry.node, where, entry.key))
          (entry.key == "only" ? run.only : run.except)
              .push_back(read_match(*match, run, where + ": " + entry.key));
    return run;
  }

  void read_entry(const Entry& entry, const std::vector<std::string>& options, RunTable& run) {
    if (entry.key == "command" || entry.key == "only" || entry.key == "except")
      return;
    if (entry.key == "name") {
      run.name = text(*entry.node, run.where, "name");
    } else if (entry.key == "grid") {
      for (const Entry& axis : entries_of(as_table(*entry.node, run.where, "grid"), run.where)) {
        check_key(axis.key, run.command, options, run.where + ": grid");
        run.axes.push_back(read_axis(axis, run.where));
      }
    } else {
      check_key(entry.key, run.command, options, run.where);
      std::erase_if(run.settings, [&](const Setting& one) { return one.key == entry.key; });
      run.settings.push_back({entry.key, io::toml_texts(*entry.node, run.where, entry.key)});
    }
  }

  static Axis read_axis(const Entry& entry, const std::string& where) {
    const toml::array* const values = entry.node->as_array();
    check(values != nullptr && !values->empty(), Error::Kind::Usage,
          "{}: grid: '{}' must be an array of one or more values", where, entry.key);
    Axis axis{.key = entry.key, .values = {}};
    for (const toml::node& value : *values)
      axis.values.push_back(io::toml_texts(value, where, entry.key));
    for (size_t i = 0; i < axis.values.size(); ++i)
      for (size_t j = 0; j < i; ++j)
        check(axis.values[i] != axis.values[j], Error::Kind::Usage,
              "{}: grid: '{}' has the value {} twice", where, entry.key,
              fmt::join(axis.values[i], ", "));
    return axis;
  }

  /// A value matches one that equals it; an array also each of its elements.
  static Match read_match(const toml::table& table, const RunTable& run, const std::string& where) {
    Match match;
    for (const Entry& entry : entries_of(table, where)) {
      std::vector<std::vector<std::string>> wanted;
      if (const toml::array* array = entry.node->as_array())
        for (const toml::node& element : *array)
          wanted.push_back(io::toml_texts(element, where, entry.key));
      if (entry.node->is_array() &&
          std::ranges::all_of(*entry.node->as_array(),
                              [](const toml::node& e) { return !e.is_array(); }))
        wanted.push_back(io::toml_texts(*entry.node, where, entry.key));
      if (!entry.node->is_array())
        wanted.push_back(io::toml_texts(*entry.node, where, entry.key));
      const auto axis = std::ranges::find(run.axes, entry.key, &Axis::key);
      const auto setting = std::ranges::find(run.settings, entry.key, &Setting::key);
      check(axis != run.axes.end() || setting != run.settings.end(), Error::Kind::Usage,
            "{}: '{}' is neither an axis of the grid nor an option of the run", where, entry.key);
      const bool occurs = std::ranges::any_of(wanted, [&](const auto& values) {
        return axis != run.axes.end()
                   ? std::ranges::find(axis->values, values) != axis->values.end()
                   : setting->values == values;
      });
      check(occurs, Error::Kind::Usage, "{}: no cell has this value of '{}'", where, entry.key);
      match.wanted.emplace_back(entry.key, std::move(wanted));
    }
    return match;
  }

  std::string config_;
  const OptionsOf& options_of_;
  std::vector<Entry> defaults_;
  std::set<std::string> used_;  // of these, by some run
};

}  // namespace

std::vector<RunTable> read_run_tables(const fs::path& config, const OptionsOf& options_of) {
  return Reader(config, options_of).read();
}

}  // namespace stuffed::sweep
