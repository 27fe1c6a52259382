// The words of the passkey task, byte for byte those of the code published with arXiv:2410.07145.
#pragma once
#include <string>
#include <string_view>

namespace stuffed::io::passkey {

inline constexpr std::string_view kPrefix =
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize "
    "it.\n\n";
inline constexpr std::string_view kFiller =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";
inline constexpr std::string_view kQuestion = "\nWhat is the pass key? The passkey is";

inline std::string needle(std::string_view key) {
  std::string text = "The passkey is ";
  text.append(key).append(". Remember it. ").append(key).append(" is the passkey.\n");
  return text;
}

}  // namespace stuffed::io::passkey
