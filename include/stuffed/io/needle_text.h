// The words of the needle tasks, byte for byte those of the code published with RULER
// (arXiv:2404.06654); the adjectives and nouns that keys are made of are ours.
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "stuffed/core/rng.h"

namespace stuffed::io::needles {

/// Haystack of the tasks without a text: a line.
inline constexpr std::string_view kFiller =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n";

/// What keys and values may be: "words" (ample-anchor), "numbers" (of seven digits), "uuids".
inline constexpr std::string_view kKinds[] = {"words", "numbers", "uuids"};
std::string draw(Rng& rng, std::string_view kind);

/// "One of the special magic numbers for KEY is: VALUE."
std::string needle(std::string_view kind, std::string_view key, std::string_view value);

/// What stands before the haystack and after it, up to where the answer begins. `kind` is the values';
/// `is_one`: one value is asked for.
struct Frame {
  std::string head, question;
};
Frame frame(std::string_view kind, std::span<const std::string> keys, bool is_one);

/// "a", or "a, and b", or "a, b, and c".
std::string listed(std::span<const std::string> items);

}  // namespace stuffed::io::needles
