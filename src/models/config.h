// What a family makes of a config.json: every key is read, or must have one value, or changes no
// number; any other is reported.
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "stuffed/core/error.h"
#include "stuffed/models/family.h"
#include "stuffed/models/registry.h"

namespace stuffed {

/// A key that may have these values only; where it is absent or null it has the first of them.
struct FixedKey {
  std::string_view name;
  std::vector<io::json> values;   // none: the key must be absent
  std::string_view because = "";  // what another value would stand for
};

/// The keys of one kind of config, as one family reads them. `a.b` is key b of the object a; a name
/// that ends in * stands for all that begin like it.
struct ConfigTable {
  std::string_view kind;                      // whose keys: "hf", "original", "fla"
  std::vector<std::string_view> model_types;  // that it describes; a config may name none
  std::vector<std::string_view> read;         // by the family's own code
  std::vector<FixedKey> fixed;
  std::vector<std::string_view> harmless;  // beside kHarmlessKeys
};

/// Holds the checkpoint's config against the table; without a config there is nothing to do.
/// Returns the keys that the table does not know.
/// Errors  Input, naming key and value, if model_type or a fixed key has another value
std::vector<std::string> check_config_keys(const Checkpoint& checkpoint,
                                           std::string_view family,
                                           const ConfigTable& table);

/// True if the config has one of these keys (null counts as absent).
bool config_has_any(const Checkpoint& checkpoint, std::initializer_list<std::string_view> keys);

/// The values of a config, or of one object in it, by key. Null counts as absent. A value of
/// another type than is asked for is an Input error that names key and value.
class ConfigValues {
 public:
  explicit ConfigValues(const Checkpoint& checkpoint, std::string_view object = "");
  /// Of a config that has no file, such as one given on the command line. Errors are `kind`.
  ConfigValues(io::json values, std::string where, Error::Kind kind);

  const io::json& all() const { return values_; }
  const io::json* find(std::string_view key) const;
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> flag(std::string_view key) const;
  std::optional<std::string> text(std::string_view key) const;
  /// An eps: from 0 to what f32 holds.
  std::optional<double> eps(std::string_view key) const;

  /// Throws unless the key is absent or has the value that the tensors say.
  void agree(std::string_view key, int64_t from_tensors) const;
  /// The same of a flag that says whether `tensor` is there.
  void agree(std::string_view key, bool from_tensors, std::string_view tensor) const;
  /// Throws unless every key that other layouts give their norms' eps by is absent or has the one
  /// that is computed with, which is `used`'s.
  void agree_eps(std::string_view used, double eps) const;

  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> message, Args&&... args) const {
    if (!condition) [[unlikely]]
      throw Error(kind_, where_ + ": " + fmt::format(message, std::forward<Args>(args)...));
  }
  std::string named(std::string_view key) const;  // "ssm_cfg.d_state"

 private:
  io::json values_;
  std::string where_;   // the file, for messages
  std::string prefix_;  // "ssm_cfg."
  Error::Kind kind_ = Error::Kind::Input;
};

std::vector<std::string_view> names_of(std::span<const NewKey> keys);

/// The number at the key of a new model's config, positive; `otherwise` without it.
/// Errors  Usage, naming the key, if it must be given (`otherwise` is 0)
int64_t new_size(const ConfigValues& config, std::string_view key, int64_t otherwise = 0);

/// The table of a new model's config: `keys`, which its family reads, and what can have one value
/// alone, such as the type of its weights and the name of the class that reads them.
ConfigTable new_table(std::string_view kind,
                      std::string_view model_type,
                      std::string_view architecture,
                      std::span<const NewKey> keys,
                      std::vector<FixedKey> fixed,
                      std::vector<std::string_view> harmless = {});

/// check_config_keys() for a config from which a new model is to be made: a key that the table does
/// not know is an error, too.
void check_new_config(const ConfigValues& config,
                      std::string_view family,
                      const ConfigTable& table);

/// The value as it stands in the file, cut short for a message.
std::string shown_value(const io::json& value);

}  // namespace stuffed
