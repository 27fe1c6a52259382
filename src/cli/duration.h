// Times for people.
#pragma once
#include <string>

namespace stuffed::cli {

/// "48 s", "12 min", "3 h 05 min".
std::string duration_text(double seconds);

}  // namespace stuffed::cli
