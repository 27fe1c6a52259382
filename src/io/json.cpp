#include "stuffed/io/json.h"

#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"
#include "stuffed/io/regular_file.h"

namespace stuffed::io {
namespace {

constexpr size_t kMaxDepth = 256;

/// Spelling of the numbers that JSON lacks: as Python writes them, and the key newer writers use.
constexpr std::array<std::pair<std::string_view, double>, 3> kNonFinite = {{
    {"-Infinity", -std::numeric_limits<double>::infinity()},
    {"Infinity", std::numeric_limits<double>::infinity()},
    {"NaN", std::numeric_limits<double>::quiet_NaN()},
}};
constexpr const char* kFloatKey = "__float__";

/// A text in which every literal of kNonFinite has become {"__float__": literal}.
class SpelledOut {
 public:
  explicit SpelledOut(std::string_view text) {
    bool in_string = false;
    size_t copied = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '"') {
        in_string = !in_string;
      } else if (in_string) {
        i += text[i] == '\\';
      } else if (const std::string_view literal = literal_at(text.substr(i)); !literal.empty()) {
        text_.append(text.substr(copied, i - copied));
        text_.append(fmt::format("{{\"{}\":\"{}\"}}", kFloatKey, literal));
        i += literal.size() - 1;
        copied = i + 1;
        ends_.emplace_back(text_.size(), copied);
      }
    }
    text_.append(text.substr(copied));
  }

  const std::string& text() const { return text_; }

  /// Where in the original text the byte `position` of text() came from.
  size_t original(size_t position) const {
    for (auto end = ends_.rbegin(); end != ends_.rend(); ++end)
      if (end->first <= position)
        return position - end->first + end->second;
    return position;
  }

 private:
  static std::string_view literal_at(std::string_view text) {
    for (const auto& [literal, value] : kNonFinite)
      if (text.starts_with(literal))
        return literal;
    return {};
  }

  std::string text_;
  std::vector<std::pair<size_t, size_t>> ends_;  // of each literal: in text_, in the original
};

/// Receives nlohmann's events and builds the document: unlike the library's own builder it limits
/// the depth, refuses repeated keys and knows {"__float__": ...}.
class Builder : public nlohmann::json_sax<json> {
 public:
  Builder(std::string_view where, const SpelledOut* spelled) : where_(where), spelled_(spelled) {}

  json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(json::binary_t&) override { return false; }  // not in JSON's text form

  bool start_object(size_t) override { return open(json::object()); }
  bool start_array(size_t) override { return open(json::array()); }

  bool key(std::string& name) override {
    auto& members = open_.back()->get_ref<json::object_t&>();
    const auto [member, is_new] = members.try_emplace(name);
    check(is_new, Error::Kind::Input, "{}: the key {} occurs twice in one object", where_,
          shown(name));
    member_ = &member->second;
    return true;
  }

  bool end_object() override {
    json& object = *open_.back();
    if (object.size() == 1 && object.begin().key() == kFloatKey && object.begin()->is_string()) {
      for (const auto& [literal, value] : kNonFinite)
        if (object.begin()->get_ref<const std::string&>() == literal) {
          object = value;
          break;
        }
    }
    open_.pop_back();
    return true;
  }

  bool end_array() override {
    open_.pop_back();
    return true;
  }

  bool parse_error(size_t position,
                   const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string_view reason = error.what();
    if (const size_t colon = reason.find(": "); colon != std::string_view::npos)
      reason.remove_prefix(colon + 2);  // the library's own prefix: error number, line, column
    const size_t byte = spelled_ == nullptr ? position : spelled_->original(position);
    fail(Error::Kind::Input, "{}: not JSON at byte {}: {}", where_, byte, shown(reason));
  }

 private:
  template <class T>
  bool add(T&& value) {
    place() = std::forward<T>(value);
    return true;
  }

  bool open(json value) {
    check(open_.size() < kMaxDepth, Error::Kind::Input, "{}: nested deeper than {} levels", where_,
          kMaxDepth);
    json& opened = place();
    opened = std::move(value);
    open_.push_back(&opened);
    return true;
  }

  json& place() {
    if (open_.empty())
      return root_;
    if (open_.back()->is_object())
      return *member_;
    return open_.back()->get_ref<json::array_t&>().emplace_back();
  }

  std::string_view where_;
  const SpelledOut* spelled_;
  json root_;
  std::vector<json*> open_;  // the containers being filled; only the innermost one grows
  json* member_ = nullptr;   // of the innermost object: the value whose key was read last
};

}  // namespace

json parse_json(std::string_view text, std::string_view where) {
  std::optional<SpelledOut> spelled;
  if (text.find("Infinity") != std::string_view::npos || text.find("NaN") != std::string_view::npos)
    text = spelled.emplace(text).text();
  Builder builder(where, spelled ? &*spelled : nullptr);
  json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

json number_or_null(double value) {
  return std::isfinite(value) ? json(value) : json();
}

json read_json(const std::filesystem::path& path, int64_t max_bytes) {
  return parse_json(read_regular_file(path, max_bytes), path.string());
}

}  // namespace stuffed::io
