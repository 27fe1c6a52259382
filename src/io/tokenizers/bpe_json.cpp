#include "bpe_json.h"

#include <nlohmann/json.hpp>

#include "stuffed/core/error.h"

namespace stuffed::io {

using nlohmann::json;

namespace {

// Finds members with one clear message when they are not what they should be.
class Reader {
 public:
  explicit Reader(const std::string& path) : path_(path) {}

  template <class... Args>
  void check(bool condition, fmt::format_string<Args...> message, Args&&... args) const {
    if (!condition) [[unlikely]]
      fail(Error::Kind::Input, "{}: {}; is it a tokenizer.json of the Hugging Face kind, complete?",
           path_, fmt::format(message, std::forward<Args>(args)...));
  }

  const json& member(const json& object, const char* key) const {
    check(object.is_object() && object.contains(key), "there is no \"{}\" where one belongs", key);
    return object[key];
  }

  bool flag(const json& object, const char* key) const {
    const json& value = object.is_object() && object.contains(key) ? object[key] : json();
    check(value.is_null() || value.is_boolean(), "\"{}\" is not true or false", key);
    return value.is_boolean() && value.get<bool>();
  }

  const std::string& text(const json& value, const char* what) const {
    check(value.is_string(), "a {} is not a string", what);
    return value.get_ref<const std::string&>();
  }

  int32_t id(const json& value, size_t limit) const {
    check(value.is_number_integer() || value.is_number_unsigned(), "a token id is not an integer");
    const auto id = value.get<int64_t>();
    check(id >= 0 && id < static_cast<int64_t>(limit), "token id {} is outside [0, {})", id, limit);
    return static_cast<int32_t>(id);
  }

 private:
  const std::string& path_;
};

void read_vocabulary(const Reader& reader, const json& model, size_t limit, BpeJson& out) {
  const json& vocab = reader.member(model, "vocab");
  reader.check(vocab.is_object(), "the vocabulary is not an object");
  for (const auto& [token, value] : vocab.items()) {
    const auto id = static_cast<size_t>(reader.id(value, limit));
    if (out.tokens.size() <= id)
      out.tokens.resize(id + 1);
    reader.check(out.tokens[id].empty() && !token.empty(),
                 "token id {} is given twice, or to nothing", id);
    out.tokens[id] = token;
    out.ids.emplace(token, static_cast<int32_t>(id));
  }
}

void read_merges(const Reader& reader, const json& model, BpeJson& out) {
  const json& merges = reader.member(model, "merges");
  reader.check(merges.is_array(), "the merges are not a list");
  const auto id_of = [&](const std::string& token) {
    const auto found = out.ids.find(token);
    reader.check(found != out.ids.end(), "a merge speaks of '{}', which is not in the vocabulary",
                 token);
    return found->second;
  };
  out.merges.reserve(merges.size());
  for (const json& merge : merges) {
    std::string left, right;
    if (merge.is_string()) {  // older files: "a b"
      const auto& both = merge.get_ref<const std::string&>();
      if (both.starts_with("#version"))
        continue;
      const size_t space = both.find(' ');
      reader.check(space != std::string::npos && both.find(' ', space + 1) == std::string::npos,
                   "the merge '{}' is not two tokens", both);
      left = both.substr(0, space);
      right = both.substr(space + 1);
    } else {  // newer files: ["a", "b"]
      reader.check(merge.is_array() && merge.size() == 2, "a merge is not two tokens");
      left = reader.text(merge[0], "merge");
      right = reader.text(merge[1], "merge");
    }
    out.merges.push_back({id_of(left), id_of(right), id_of(left + right)});
  }
}

void read_added(const Reader& reader, const json& description, size_t limit, BpeJson& out) {
  if (!description.contains("added_tokens"))
    return;
  reader.check(description["added_tokens"].is_array(), "the added tokens are not a list");
  for (const json& entry : description["added_tokens"]) {
    AddedToken token;
    token.content = reader.text(reader.member(entry, "content"), "token's content");
    token.id = reader.id(reader.member(entry, "id"), limit);
    token.special = reader.flag(entry, "special");
    token.normalized = reader.flag(entry, "normalized");
    for (const char* option : {"single_word", "lstrip", "rstrip"})
      reader.check(!reader.flag(entry, option), "added token '{}' has {}, which is not supported",
                   token.content, option);
    const auto id = static_cast<size_t>(token.id);
    if (out.tokens.size() <= id)
      out.tokens.resize(id + 1);
    reader.check(
        !token.content.empty() && (out.tokens[id].empty() || out.tokens[id] == token.content),
        "added token '{}' has the id {} of another token", token.content, id);
    out.tokens[id] = token.content;
    out.added.push_back(std::move(token));
  }
}

// A template such as `<s> $A`. What it puts after the text (an end of text) is not kept: we feed
// streams.
std::optional<int32_t> read_bos(const Reader& reader, const json& processor, size_t limit) {
  if (processor.is_null())
    return std::nullopt;
  const std::string& type = reader.text(reader.member(processor, "type"), "post-processor's type");
  if (type == "ByteLevel")
    return std::nullopt;
  if (type == "Sequence") {
    std::optional<int32_t> bos;
    for (const json& part : reader.member(processor, "processors"))
      if (const auto found = read_bos(reader, part, limit))
        bos = found;
    return bos;
  }
  reader.check(type == "TemplateProcessing", "the post-processor {} is not supported", type);
  std::optional<int32_t> bos;
  for (const json& piece : reader.member(processor, "single")) {
    reader.check(piece.is_object(), "the template has a piece that is not an object");
    if (piece.contains("Sequence"))
      return bos;
    const json& name = reader.member(reader.member(piece, "SpecialToken"), "id");
    const json& token = reader.member(reader.member(processor, "special_tokens"),
                                      reader.text(name, "special token").c_str());
    const json& ids = reader.member(token, "ids");
    reader.check(!bos && ids.is_array() && ids.size() == 1,
                 "the template puts more than one token before the text, which is not supported");
    bos = reader.id(ids[0], limit);
  }
  reader.check(false, "the template has no place for the text");
  return std::nullopt;
}

}  // namespace

std::string type_of(const json& description, const char* key) {
  if (!description.is_object() || !description.contains(key))
    return "";
  const json& value = description[key];
  return value.is_object() && value.contains("type") && value["type"].is_string()
             ? value["type"].get<std::string>()
             : "";
}

BpeJson read_bpe_json(const json& description, const std::string& path) {
  const Reader reader(path);
  const json& model = reader.member(description, "model");
  reader.check(model.is_object(), "the model is not an object");
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"})
    reader.check(
        !model.contains(key) || model[key].is_null() || model[key] == "" || model[key] == 0,
        "the model has {} {}, which is not supported", key, model.value(key, json()).dump());
  reader.check(!reader.flag(model, "ignore_merges"),
               "the model has ignore_merges, which is not supported");
  BpeJson out;
  // Ids may have gaps, but a small file must not ask for a large table.
  const size_t limit = 4 * reader.member(model, "vocab").size() + 4096;
  read_vocabulary(reader, model, limit, out);
  read_merges(reader, model, out);
  read_added(reader, description, limit, out);
  if (description.contains("post_processor"))
    out.bos = read_bos(reader, description["post_processor"], limit);
  reader.check(!out.bos || static_cast<size_t>(*out.bos) < out.tokens.size(),
               "the template's token {} is not in the vocabulary", out.bos.value_or(0));
  return out;
}

}  // namespace stuffed::io
