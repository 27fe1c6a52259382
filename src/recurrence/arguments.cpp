#include "arguments.h"

#include <charconv>

#include "stuffed/core/error.h"

namespace stuffed::recurrence {

namespace {

/// The whole of `text` as a number, or nothing.
template <class Number>
std::optional<Number> parse(const std::string& text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size())
    return std::nullopt;
  return value;
}

}  // namespace

Arguments::Arguments(std::string_view text) {
  const size_t colon = text.find(':');
  name_ = text.substr(0, colon);
  std::string_view rest = colon == std::string_view::npos ? "" : text.substr(colon + 1);
  while (!rest.empty()) {
    const std::string_view item = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    const size_t equals = item.find('=');
    check(equals != std::string_view::npos && equals > 0, Error::Kind::Usage,
          "mitigation '{}': '{}' is not of the form key=value", text, item);
    const bool is_new = values_.emplace(item.substr(0, equals), item.substr(equals + 1)).second;
    check(is_new, Error::Kind::Usage, "mitigation '{}': '{}' is given twice", text,
          item.substr(0, equals));
  }
}

std::optional<std::string> Arguments::text(const std::string& key) {
  keys_.push_back(key);
  const auto node = values_.extract(key);
  return node ? std::optional(node.mapped()) : std::nullopt;
}

double Arguments::number(const std::string& key, double missing, double least, double most) {
  const auto given = text(key);
  if (!given)
    return missing;
  const auto value = parse<double>(*given);
  check(value && *value >= least && *value <= most, Error::Kind::Usage,
        "mitigation {}: {}={} is not a number in [{}, {}]", name_, key, *given, least, most);
  return *value;
}

int64_t Arguments::integer(const std::string& key,
                           std::optional<int64_t> missing,
                           int64_t least,
                           int64_t most) {
  const auto given = text(key);
  check(given || missing, Error::Kind::Usage, "mitigation {}: needs {}=NUMBER", name_, key);
  if (!given)
    return *missing;
  const auto value = parse<int64_t>(*given);
  check(value && *value >= least && *value <= most, Error::Kind::Usage,
        "mitigation {}: {}={} is not a whole number in [{}, {}] (no K, M or G)", name_, key, *given,
        least, most);
  return *value;
}

void Arguments::finish() const {
  std::vector<std::string> keys;
  for (const auto& [key, value] : values_)
    keys.push_back(key);
  check(keys.empty(), Error::Kind::Usage, "mitigation {}: unknown {} '{}'; known: {}", name_,
        keys.size() == 1 ? "key" : "keys", fmt::join(keys, "', '"), fmt::join(keys_, ", "));
}

}  // namespace stuffed::recurrence
