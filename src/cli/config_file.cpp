#include "src/cli/config_file.h"

#include <algorithm>
#include <toml++/toml.h>

#include "stuffed/core/error.h"

namespace stuffed::cli {

namespace {

std::string as_argument(const toml::node& node, std::string_view file, std::string_view key) {
  if (const auto text = node.value_exact<std::string>())
    return *text;
  if (const auto number = node.value_exact<int64_t>())
    return fmt::format("{}", *number);
  if (const auto number = node.value_exact<double>())
    return fmt::format("{}", *number);
  if (const auto truth = node.value_exact<bool>())
    return *truth ? "true" : "false";
  fail(Error::Kind::Usage,
       "{}: '{}' is a table or a date; expected a string, a number, true, false, or an array of "
       "these",
       file, key);
}

}  // namespace

std::vector<CLI::ConfigItem> TomlConfig::from_config(std::istream& input) const {
  const std::string file = root_->get_config_ptr()->as<std::string>();
  toml::table table;
  try {
    table = toml::parse(input, file);
  } catch (const toml::parse_error& error) {
    fail(Error::Kind::Input, "{}: line {}, column {}: {}", file, error.source().begin.line,
         error.source().begin.column, error.description());
  }
  std::vector<CLI::ConfigItem> items;
  for (const auto& [key, node] : table) {
    CLI::ConfigItem item;
    for (const CLI::App* at = root_; !at->get_subcommands().empty();) {  // `bench scan` is two
      at = at->get_subcommands().front();
      item.parents.push_back(at->get_name());
    }
    item.name = key.str();
    std::replace(item.name.begin(), item.name.end(), '_', '-');
    if (const toml::array* array = node.as_array()) {
      for (const toml::node& element : *array)
        item.inputs.push_back(as_argument(element, file, key.str()));
    } else {
      item.inputs.push_back(as_argument(node, file, key.str()));
    }
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace stuffed::cli
