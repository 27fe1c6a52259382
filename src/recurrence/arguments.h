// The arguments of one mitigation, "name:key=value,key=value", read once and checked for leftovers.
#pragma once
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace stuffed::recurrence {

class Arguments {
 public:
  explicit Arguments(std::string_view text);  // throws Usage if it is not of that form

  const std::string& name() const { return name_; }
  bool has(const std::string& key) const { return values_.contains(key); }
  /// Each takes the key away. Usage if the value is no number or lies outside [least, most].
  std::optional<std::string> text(const std::string& key);
  double number(const std::string& key, double missing, double least, double most);
  int64_t integer(const std::string& key,
                  std::optional<int64_t> missing,
                  int64_t least,
                  int64_t most = std::numeric_limits<int64_t>::max());
  /// Usage if a key was given that nobody asked for; the message names those that were.
  void finish() const;

 private:
  std::string name_;
  std::map<std::string, std::string> values_;  // not yet taken
  std::vector<std::string> keys_;              // asked for, in order
};

}  // namespace stuffed::recurrence
