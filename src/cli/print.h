// Text for people.
#pragma once
#include <cstdio>
#include <utility>

#include <fmt/format.h>

namespace stuffed::cli {

/// Never throws for a place that cannot be written: what is lost of standard error is lost, and
/// main() looks at standard output at the end.
template <class... Args>
void print(std::FILE* to, fmt::format_string<Args...> format, Args&&... args) {
  const std::string text = fmt::format(format, std::forward<Args>(args)...);
  std::fwrite(text.data(), 1, text.size(), to);
}

}  // namespace stuffed::cli
