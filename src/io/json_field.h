// One field's text out of a JSON text that comes in pieces, of which nothing else is kept: a line
// may be longer than the memory.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "utf8.h"

namespace stuffed::io {

/// Accepts what parse_json() accepts (no key twice in an object, at most 256 levels, Infinity and
/// NaN), if its keys take less than 16 MiB and no number more than 4096 characters.
class JsonField {
 public:
  using OnText = std::function<void(std::string_view piece)>;

  /// `field`: keys joined by dots, which descend through objects and through strings that hold JSON
  /// themselves. `on_text` is given the text, its escapes undone, in pieces that may part a
  /// character. `where` is for messages.
  JsonField(const std::string& field, std::string where, OnText on_text);

  /// Errors  Input, naming `where` and the byte, for what is not JSON or does not have that field
  void add(std::string_view text);
  /// The text ends here.
  /// Errors  Input if the JSON is not whole or does not have the field
  void finish();

 private:
  enum class State {
    Value,         // one begins
    FirstElement,  // or the array ends
    FirstKey,      // or the object ends
    Key,
    Colon,
    AfterValue,
    String,
    Escape,
    Unicode,
    Scalar,
    End,  // the JSON is whole
  };
  struct Container {
    bool is_object = false;
    int level = kOffPath;                    // of an object: the key it is searched for
    std::unordered_set<std::string> keys{};  // of an object
    size_t key_bytes = 0;
  };
  static constexpr int kOffPath = -1;

  JsonField(std::vector<std::string> keys,
            int level,
            bool is_inner,
            std::string field,
            std::string where,
            OnText on_text);

  size_t step(std::string_view text);
  void structure(char c);
  void begin_value(char c);
  void open(bool is_object);
  void close();
  void begin_string(bool is_key);
  size_t string_run(std::string_view text);
  void escape(char c);
  void unicode(char c);
  void emit(std::string_view text);
  void end_string();
  void end_key();
  void end_scalar();
  void end_value();
  bool is_wanted() const { return level_ == static_cast<int>(keys_.size()); }
  bool descends() const { return level_ != kOffPath && !is_wanted(); }
  [[noreturn]] void refuse(const std::string& why) const;
  [[noreturn]] void no_field(int level) const;
  [[noreturn]] void no_text(std::string_view type) const;

  std::vector<std::string> keys_;
  bool is_inner_;  // of a string: it may not be a string again
  std::string field_, where_;
  OnText on_text_;

  State state_ = State::Value;
  int level_;         // of the value that begins or goes on: how many keys led to it
  size_t bytes_ = 0;  // read so far
  size_t mark_ = 0;   // of these: a byte order mark
  std::vector<Container> open_;
  size_t key_bytes_ = 0;  // of all open objects
  bool is_key_ = false;   // of the string that goes on
  std::string key_, scalar_;
  uint32_t code_ = 0, high_ = 0;  // of \u: the unit so far; the surrogate that waits for its other
  int digits_ = 0;
  Utf8Stream utf8_;
  size_t string_begin_ = 0;
  std::unique_ptr<JsonField> inner_;  // of the string that goes on
};

}  // namespace stuffed::io
