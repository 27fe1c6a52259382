#include "stuffed/io/needle_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

namespace stuffed::io::needles {

namespace {

constexpr std::string_view kAdjectives[] = {
    "ample",   "amber",  "ancient", "arctic",  "austere", "azure",   "balmy",  "brisk",
    "bright",  "calm",   "candid",  "civic",   "clever",  "cobalt",  "cosmic", "crisp",
    "curious", "dapper", "daring",  "deft",    "dense",   "eager",   "earthy", "elder",
    "exotic",  "fabled", "faint",   "fertile", "frosty",  "frugal",  "gentle", "gilded",
    "global",  "golden", "grand",   "hardy",   "hasty",   "hidden",  "humble", "ivory",
    "jolly",   "keen",   "level",   "lively",  "lucid",   "lunar",   "mellow", "mighty",
    "modest",  "nimble", "noble",   "novel",   "opaque",  "patient", "placid", "polar",
    "proud",   "quaint", "rapid",   "rustic",  "serene",  "sturdy",  "tidy",   "vivid"};
constexpr std::string_view kNouns[] = {
    "anchor",  "apron",  "arrow",   "badge",   "banjo",   "barley",  "basin",  "beacon",
    "bridge",  "bucket", "cabin",   "candle",  "canyon",  "carpet",  "cedar",  "cellar",
    "compass", "copper", "cradle",  "curtain", "desert",  "dragon",  "engine", "falcon",
    "feather", "fiddle", "forest",  "garden",  "glacier", "hammer",  "harbor", "helmet",
    "island",  "jacket", "kettle",  "ladder",  "lantern", "magnet",  "marble", "meadow",
    "mirror",  "needle", "orchard", "paddle",  "pebble",  "pepper",  "pillow", "planet",
    "quarry",  "ribbon", "saddle",  "shelter", "silver",  "spindle", "stable", "temple",
    "timber",  "tunnel", "valley",  "velvet",  "violin",  "walnut",  "willow", "window"};

std::string draw_number(Rng& rng) {
  return fmt::format("{}", 1'000'000 + rng.below(9'000'000));
}

std::string draw_words(Rng& rng) {
  const std::string_view adjective = kAdjectives[rng.below(std::size(kAdjectives))];
  return fmt::format("{}-{}", adjective, kNouns[rng.below(std::size(kNouns))]);
}

/// Version 4: random but for the version and the variant.
std::string draw_uuid(Rng& rng) {
  const uint64_t high = (rng.next() & ~uint64_t{0xF000}) | 0x4000;
  const uint64_t low = (rng.next() >> 2) | uint64_t{1} << 63;
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, high >> 16 & 0xFFFF,
                     high & 0xFFFF, low >> 48, low & 0xFFFF'FFFF'FFFF);
}

}  // namespace

std::string draw(Rng& rng, std::string_view kind) {
  return kind == "words" ? draw_words(rng) : kind == "numbers" ? draw_number(rng) : draw_uuid(rng);
}

std::string needle(std::string_view kind, std::string_view key, std::string_view value) {
  return fmt::format("One of the special magic {} for {} is: {}.", kind, key, value);
}

std::string listed(std::span<const std::string> items) {
  if (items.size() < 2)
    return items.empty() ? "" : items.front();
  return fmt::format("{}, and {}", fmt::join(items.first(items.size() - 1), ", "), items.back());
}

Frame frame(std::string_view kind, std::span<const std::string> keys, bool is_one) {
  const std::string_view name = is_one ? kind.substr(0, kind.size() - 1) : kind;
  const std::string asked = listed(keys);
  return {.head = fmt::format("{} special magic {} {} hidden within the following text. Make sure "
                              "to memorize it. I will quiz you about the {} afterwards.\n",
                              is_one ? "A" : "Some", name, is_one ? "is" : "are", name),
          .question = fmt::format(
              "What {} special magic {} for {} mentioned in the provided text? The "
              "special magic {} for {} mentioned in the provided text {}",
              is_one ? "is the" : "are all the", name, asked, name, asked, is_one ? "is" : "are")};
}

}  // namespace stuffed::io::needles
