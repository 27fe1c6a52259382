#include "config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace stuffed {

namespace {

/// Keys that any config may have and that no number of an evaluation depends on: what a file is
/// called and was made with, token ids, how text is generated, where memory goes.
constexpr std::string_view kHarmlessKeys[] = {"_name_or_path",
                                              "_commit_hash",
                                              "_attn_implementation*",
                                              "attn_implementation",
                                              "architectures",
                                              "auto_map",
                                              "custom_pipelines",
                                              "transformers_version",
                                              "torch_dtype",
                                              "dtype",
                                              "torchscript",
                                              "use_bfloat16",
                                              "tf_legacy_loss",
                                              "license",
                                              "name",
                                              "finetuning_task",
                                              "task_specific_params",
                                              "problem_type",
                                              "tokenizer_class",
                                              "tokenizer_type",
                                              "prefix",
                                              "bos_token_id",
                                              "eos_token_id",
                                              "pad_token_id",
                                              "sep_token_id",
                                              "unk_token_id",
                                              "cls_token_id",
                                              "mask_token_id",
                                              "decoder_start_token_id",
                                              "forced_bos_token_id",
                                              "forced_eos_token_id",
                                              "suppress_tokens",
                                              "begin_suppress_tokens",
                                              "bad_words_ids",
                                              "use_cache",
                                              "return_dict",
                                              "use_return_dict",
                                              "return_dict_in_generate",
                                              "output_scores",
                                              "output_hidden_states",
                                              "output_attentions",
                                              "id2label",
                                              "label2id",
                                              "num_labels",
                                              "chunk_size_feed_forward",
                                              "is_encoder_decoder",
                                              "is_decoder",
                                              "add_cross_attention",
                                              "cross_attention_hidden_size",
                                              "tie_encoder_decoder",
                                              "pruned_heads",
                                              "max_length",
                                              "min_length",
                                              "do_sample",
                                              "early_stopping",
                                              "num_beams",
                                              "num_beam_groups",
                                              "diversity_penalty",
                                              "temperature",
                                              "top_k",
                                              "top_p",
                                              "typical_p",
                                              "repetition_penalty",
                                              "length_penalty",
                                              "no_repeat_ngram_size",
                                              "encoder_no_repeat_ngram_size",
                                              "exponential_decay_length_penalty",
                                              "num_return_sequences",
                                              "remove_invalid_values",
                                              "gradient_checkpointing",
                                              "use_gradient_checkpointing",
                                              "initializer_range",
                                              "max_position_embeddings",
                                              "context_length",
                                              "max_context_length",
                                              "model_max_length",
                                              "max_seq_len",
                                              "max_sequence_length",
                                              "seq_length",
                                              "fuse_norm",
                                              "fuse_swiglu",
                                              "fuse_cross_entropy",
                                              "fuse_linear_cross_entropy",
                                              "use_l2warp"};

/// What one layout or another calls the eps of its norms; every family holds all of them against
/// its own.
constexpr std::string_view kEpsKeys[] = {"norm_eps",           "rms_norm_eps",  "layer_norm_eps",
                                         "layer_norm_epsilon", "norm_epsilon",  "rms_norm_epsilon",
                                         "layernorm_epsilon",  "layernorm_eps", "group_norm_eps",
                                         "group_norm_epsilon", "rms_eps"};

bool matches(std::string_view pattern, std::string_view name) {
  return pattern.ends_with('*') ? name.starts_with(pattern.substr(0, pattern.size() - 1))
                                : name == pattern;
}

template <class Names>
bool is_among(const Names& patterns, std::string_view name) {
  return std::ranges::any_of(patterns, [&](std::string_view p) { return matches(p, name); });
}

class KeyCheck {
 public:
  KeyCheck(const ConfigValues& config, std::string_view family, const ConfigTable& table)
      : config_(config), family_(family), table_(table) {}

  void visit(const io::json& object, const std::string& prefix) {
    for (const auto& [key, value] : object.items()) {
      const std::string name = prefix + key;
      if (has_keys_of_its_own(name)) {
        config_.check(value.is_object() || value.is_null(), "{} is {}, expected an object", name,
                      shown_value(value));
        if (value.is_object())
          visit(value, name + ".");
      } else if (name != "model_type") {
        check_leaf(name, value);
      }
    }
  }

  std::vector<std::string> unknown;

 private:
  bool has_keys_of_its_own(const std::string& name) const {
    const auto inside = [&](std::string_view key) { return key.starts_with(name + "."); };
    return std::ranges::any_of(table_.read, inside) ||
           std::ranges::any_of(table_.harmless, inside) ||
           std::ranges::any_of(table_.fixed, [&](const FixedKey& key) { return inside(key.name); });
  }

  void check_leaf(const std::string& name, const io::json& value) {
    const auto fixed = std::ranges::find(table_.fixed, name, &FixedKey::name);
    if (fixed != table_.fixed.end()) {
      check_fixed(*fixed, value);
    } else if (name == "quantization_config") {
      config_.check(value.is_null(), "{} is set: quantised weights are not supported", name);
    } else if (!is_among(table_.read, name) && !is_among(table_.harmless, name) &&
               !is_among(kHarmlessKeys, name) && !is_among(kEpsKeys, name)) {
      unknown.push_back(name);
    }
  }

  void check_fixed(const FixedKey& key, const io::json& value) const {
    if (value.is_null() || std::ranges::find(key.values, value) != key.values.end())
      return;
    std::vector<std::string> allowed;
    for (const io::json& one : key.values)
      allowed.push_back(one.dump());
    config_.check(
        false, "{} is {}{}{}; {} reads {}", key.name, shown_value(value),
        key.because.empty() ? "" : ": ", key.because, family_,
        allowed.empty() ? "no such key here" : fmt::format("{} alone", fmt::join(allowed, " or ")));
  }

  const ConfigValues& config_;
  std::string_view family_;
  const ConfigTable& table_;
};

}  // namespace

std::string shown_value(const io::json& value) {
  constexpr size_t kShownBytes = 60;
  const std::string text =
      value.dump(-1, ' ', false, io::json::error_handler_t::replace);  // null for infinities
  return text.substr(0, kShownBytes) + (text.size() > kShownBytes ? "..." : "");
}

std::vector<std::string> check_config_keys(const Checkpoint& checkpoint,
                                           std::string_view family,
                                           const ConfigTable& table) {
  if (!checkpoint.config.is_object())
    return {};
  const ConfigValues config(checkpoint);
  const auto type = config.text("model_type");
  config.check(
      !type || std::ranges::find(table.model_types, *type) != table.model_types.end(),
      "model_type is \"{}\", but the tensors of {} are {}'s, whose model_type is \"{}\": a "
      "relative that computes something else is not supported",
      type.value_or(""), checkpoint.weights.path().string(), family,
      fmt::join(table.model_types, "\" or \""));
  KeyCheck check(config, family, table);
  check.visit(config.all(), "");
  return check.unknown;
}

std::vector<std::string_view> names_of(std::span<const NewKey> keys) {
  std::vector<std::string_view> names;
  for (const NewKey& key : keys)
    names.push_back(key.name);
  return names;
}

ConfigTable new_table(std::string_view kind,
                      std::string_view model_type,
                      std::string_view architecture,
                      std::span<const NewKey> keys,
                      std::vector<FixedKey> fixed,
                      std::vector<std::string_view> harmless) {
  fixed.push_back({"architectures", {io::json::array({architecture})}});
  for (const char* key : {"dtype", "torch_dtype"})
    fixed.push_back({key, {"float32"}, "trained weights are f32"});
  return {.kind = kind,
          .model_types = {model_type},
          .read = names_of(keys),
          .fixed = std::move(fixed),
          .harmless = std::move(harmless)};
}

int64_t new_size(const ConfigValues& config, std::string_view key, int64_t otherwise) {
  const auto value = config.integer(key);
  config.check(value || otherwise > 0, "needs {}, a positive whole number", key);
  // Beyond this no tensor fits any memory, and products of two would overflow.
  constexpr int64_t kLargest = int64_t{1} << 30;
  config.check(value.value_or(1) > 0 && value.value_or(1) <= kLargest,
               "{} is {}, expected a positive whole number", key, value.value_or(0));
  return value.value_or(otherwise);
}

void check_new_config(const ConfigValues& config,
                      std::string_view family,
                      const ConfigTable& table) {
  config.check(config.all().is_object(), "is {}, expected an object", shown_value(config.all()));
  const auto type = config.text("model_type");
  config.check(!type || std::ranges::find(table.model_types, *type) != table.model_types.end(),
               "model_type is \"{}\", expected \"{}\"", type.value_or(""),
               fmt::join(table.model_types, "\" or \""));
  KeyCheck check(config, family, table);
  check.visit(config.all(), "");
  config.check(check.unknown.empty(), "'{}' is not a key of a new {} model; its keys are {}",
               fmt::join(check.unknown, "', '"), family, fmt::join(table.read, ", "));
}

bool config_has_any(const Checkpoint& checkpoint, std::initializer_list<std::string_view> keys) {
  const ConfigValues config(checkpoint);
  return std::ranges::any_of(keys,
                             [&](std::string_view key) { return config.find(key) != nullptr; });
}

ConfigValues::ConfigValues(const Checkpoint& checkpoint, std::string_view object)
    : values_(checkpoint.config), where_(checkpoint.config_path.string()) {
  if (object.empty())
    return;
  const io::json* inner = find(object);
  check(!inner || inner->is_object(), "{} is {}, expected an object", object,
        inner ? shown_value(*inner) : "");
  io::json found = inner ? *inner : io::json();  // inner points into values_
  values_ = std::move(found);
  prefix_ = fmt::format("{}.", object);
}

ConfigValues::ConfigValues(io::json values, std::string where, Error::Kind kind)
    : values_(std::move(values)), where_(std::move(where)), kind_(kind) {}

std::string ConfigValues::named(std::string_view key) const {
  return fmt::format("{}{}", prefix_, key);
}

const io::json* ConfigValues::find(std::string_view key) const {
  if (!values_.is_object())
    return nullptr;
  const auto found = values_.find(key);
  return found == values_.end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> ConfigValues::integer(std::string_view key) const {
  const io::json* value = find(key);
  if (!value)
    return std::nullopt;
  check(value->is_number_integer(), "{} is {}, expected a whole number", named(key),
        shown_value(*value));
  // Beyond int64 nothing fits any tensor: the largest number says so, where a cast would wrap.
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(kMost))
    return kMost;
  return value->get<int64_t>();
}

std::optional<double> ConfigValues::number(std::string_view key) const {
  const io::json* value = find(key);
  if (!value)
    return std::nullopt;
  check(value->is_number(), "{} is {}, expected a number", named(key), shown_value(*value));
  return value->get<double>();
}

std::optional<bool> ConfigValues::flag(std::string_view key) const {
  const io::json* value = find(key);
  if (!value)
    return std::nullopt;
  check(value->is_boolean(), "{} is {}, expected true or false", named(key), shown_value(*value));
  return value->get<bool>();
}

std::optional<std::string> ConfigValues::text(std::string_view key) const {
  const io::json* value = find(key);
  if (!value)
    return std::nullopt;
  check(value->is_string(), "{} is {}, expected a text", named(key), shown_value(*value));
  return value->get<std::string>();
}

std::optional<double> ConfigValues::eps(std::string_view key) const {
  const auto value = number(key);
  check(!value || (*value >= 0 && *value <= std::numeric_limits<float>::max()),
        "{} is {}, expected a small number that is not negative", named(key), value.value_or(0));
  return value;
}

void ConfigValues::agree(std::string_view key, int64_t from_tensors) const {
  const auto value = integer(key);
  check(!value || *value == from_tensors,
        "{} is {}, but the tensors say {}; these files do not belong together", named(key),
        value.value_or(0), from_tensors);
}

void ConfigValues::agree(std::string_view key, bool from_tensors, std::string_view tensor) const {
  const auto value = flag(key);
  check(!value || *value == from_tensors, "{} is {}, but there is {} '{}' in the file; {}",
        named(key), value.value_or(false), from_tensors ? "a tensor" : "no tensor", tensor,
        from_tensors ? "these files do not belong together" : "is it complete?");
}

void ConfigValues::agree_eps(std::string_view used, double eps) const {
  for (const std::string_view key : kEpsKeys) {
    const auto value = number(key);
    check(!value || *value == eps, "{} is {}, but the norms of this layout take {} ({})",
          named(key), value.value_or(0), used, eps);
  }
}

}  // namespace stuffed
