// Manual pages from the same App as --help.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

namespace stuffed::cli {

/// (file name, page in man(7)'s language) of the program and of each command: "stuffed.1",
/// "stuffed-ppl-by-length.1", "stuffed-bench-scan.1".
std::vector<std::pair<std::string, std::string>> man_pages(const CLI::App& root);

}  // namespace stuffed::cli
