// What somebody who mistyped a name may have meant.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace CLI {
class App;
}

namespace stuffed::cli {

/// The nearest of `names`: few letters are wrong, missing, too many or swapped, or `name` is its
/// beginning. "" if none is near.
std::string nearest(std::string_view name, const std::vector<std::string>& names);

/// "; did you mean 'NAME'?", or "".
std::string did_you_mean(std::string_view name, const std::vector<std::string>& names);

/// Names of the subcommands of `app`, and of the long options it takes (with dashes, those that are
/// the root's too).
std::vector<std::string> command_names(const CLI::App& app);
std::vector<std::string> option_names(const CLI::App& app);

}  // namespace stuffed::cli
