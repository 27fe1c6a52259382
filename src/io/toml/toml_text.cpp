#include "stuffed/io/toml_text.h"

#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

std::string text_of_node(const toml::node& node, std::string_view file, std::string_view key) {
  if (const auto text = node.value_exact<std::string>())
    return *text;
  if (const auto number = node.value_exact<int64_t>())
    return fmt::format("{}", *number);
  if (const auto number = node.value_exact<double>())
    return fmt::format("{}", *number);
  if (const auto truth = node.value_exact<bool>())
    return *truth ? "true" : "false";
  fail(Error::Kind::Usage,
       "{}: '{}' is a table or a date; expected a string, a number, true, false, or an array of "
       "these",
       file, key);
}

}  // namespace

toml::table parse_toml(std::istream& input, std::string_view file) {
  try {
    return toml::parse(input, file);
  } catch (const toml::parse_error& error) {
    fail(Error::Kind::Input, "{}: line {}, column {}: {}", file, error.source().begin.line,
         error.source().begin.column, error.description());
  }
}

std::vector<std::string> toml_texts(const toml::node& node,
                                    std::string_view file,
                                    std::string_view key) {
  const toml::array* const array = node.as_array();
  if (array == nullptr)
    return {text_of_node(node, file, key)};
  std::vector<std::string> texts;
  for (const toml::node& element : *array)
    texts.push_back(text_of_node(element, file, key));
  return texts;
}

}  // namespace stuffed::io
