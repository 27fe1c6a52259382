#include "src/cli/config_file.h"

#include <algorithm>

#include "stuffed/core/error.h"
#include "stuffed/io/toml_text.h"

namespace stuffed::cli {

std::vector<CLI::ConfigItem> TomlConfig::from_config(std::istream& input) const {
  const std::string file = root_->get_config_ptr()->as<std::string>();
  const toml::table table = io::parse_toml(input, file);
  std::vector<CLI::ConfigItem> items;
  for (const auto& [key, node] : table) {
    CLI::ConfigItem item;
    for (const CLI::App* at = root_; !at->get_subcommands().empty();) {  // `bench scan` is two
      at = at->get_subcommands().front();
      item.parents.push_back(at->get_name());
    }
    item.name = key.str();
    std::replace(item.name.begin(), item.name.end(), '_', '-');
    item.inputs = io::toml_texts(node, file, key.str());
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace stuffed::cli
