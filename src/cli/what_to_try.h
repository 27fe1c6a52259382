// What to try when the memory ran out.
#pragma once
#include <string>

#include "src/cli/app.h"

namespace stuffed::cli {

/// What was fed, what is free, and which --batch-size and --segment would fit by estimate; where the
/// estimate has none, or nothing is known, the options of `command` that take less. Begins with the
/// punctuation that joins it to what failed.
std::string what_to_try(const CLI::App& command, const Context& context);

}  // namespace stuffed::cli
