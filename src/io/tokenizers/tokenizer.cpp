// Which tokenizer does this file, or this model's folder, hold? Decided by content, not by name.
#include "stuffed/io/tokenizer.h"

#include <algorithm>

#include "bpe_json.h"
#include "src/io/utf8.h"
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/hub_cache.h"
#include "stuffed/io/json.h"
#include "stuffed/io/regular_file.h"
#include "tokenizers.h"

namespace stuffed::io {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kWhereToGet =
    "Mamba, Mamba-2 and RWKV-7 Pile models take tokenizer.json of EleutherAI/gpt-neox-20b; RWKV "
    "World "
    "models take rwkv_vocab_v20230424.txt, which the Python package rwkv 0.8.32 contains; HGRN-2 "
    "models take "
    "Mistral's tokenizer.model, which mistral-common 1.13.1 contains as data/tokenizer.model.v1; "
    "byte-level "
    "models take the word: bytes. Put the file into the model's folder, or name it with "
    "--tokenizer";

std::string read_all(const std::string& path) {
  std::error_code ignored;
  check(fs::exists(path, ignored), Error::Kind::Input,
        "{}: no such tokenizer file, folder or repository. {}", path, kWhereToGet);
  constexpr int64_t kMostBytes = int64_t{1} << 28;  // published ones have some MB
  return read_regular_file(path, kMostBytes);
}

TokenizerPointer from_json(const TokenizerFile& file, const TokenizerOptions& options) {
  const json description = parse_json(file.content, file.path);
  check(description.is_object(), Error::Kind::Input, "{}: not a JSON object, so not a tokenizer",
        file.path);
  if (description.contains("tokenizer")) {
    check(description["tokenizer"] == "bytes", Error::Kind::Input,
          "{}: \"tokenizer\" is {}, expected \"bytes\"", file.path,
          description["tokenizer"].dump());
    return make_bytes_tokenizer();
  }
  const std::string model = type_of(description, "model"),
                    split = type_of(description, "pre_tokenizer");
  check(model == "BPE", Error::Kind::Input,
        "{}: the tokenizer's model has the type '{}'; only BPE is supported", file.path, model);
  if (split == "ByteLevel")
    return make_neox_tokenizer(file, description, options);
  if (description["model"].value("byte_fallback", json(false)) == true)
    return make_spm_json_tokenizer(file, description, options);
  fail(Error::Kind::Input,
       "{}: neither a GPT-NeoX tokenizer (its pre-tokenizer is '{}', not ByteLevel) nor a "
       "SentencePiece one (its model has no byte_fallback). {}",
       file.path, split, kWhereToGet);
}

TokenizerPointer from_file(const std::string& path, const TokenizerOptions& options) {
  TokenizerFile file{path, read_all(path), ""};
  file.hash = sha256(file.content);
  return make_tokenizer(file, options);
}

// The first file of the folder that a tokenizer is read from, or nothing.
fs::path file_in(const fs::path& folder) {
  std::error_code ignored;  // an unreadable folder holds nothing for us
  for (const char* name : {"tokenizer.json", "tokenizer.model"})
    if (fs::exists(folder / name, ignored))  // if it is no file, reading it says so
      return folder / name;
  std::vector<fs::path> mistral, vocabularies;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("tokenizer.model.v"))
      mistral.push_back(entry.path());
    if (name.starts_with("rwkv_vocab") && name.ends_with(".txt"))
      vocabularies.push_back(entry.path());
  }
  for (const auto& found : {mistral, vocabularies})
    if (!found.empty())
      return *std::max_element(found.begin(), found.end());  // the latest version or date
  if (fs::exists(folder / "stuffed_tokenizer.json", ignored))
    return folder / "stuffed_tokenizer.json";
  return {};
}

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  if (needs_utf8())
    check_utf8(find_invalid_utf8(text), "text");
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 16);
  encode_piece(text, {}, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  return replace_invalid_utf8(decode_bytes(ids));
}

TokenizerPointer make_tokenizer(const TokenizerFile& file, const TokenizerOptions& options) {
  const size_t first = file.content.find_first_not_of(" \t\r\n");
  check(first != std::string::npos, Error::Kind::Input, "{}: the file is empty. {}", file.path,
        kWhereToGet);
  if (file.content[first] == '{')
    return from_json(file, options);
  if (file.content[0] >= '0' && file.content[0] <= '9')
    return make_rwkv_tokenizer(file);
  return make_spm_tokenizer(file, options);
}

std::shared_ptr<const Tokenizer> load_tokenizer(const std::string& path,
                                                const TokenizerOptions& options) {
  if (path == "bytes")
    return make_bytes_tokenizer();
  if (std::error_code ignored; fs::is_directory(path, ignored))
    return find_tokenizer(path, options);
  return from_file(path, options);
}

std::shared_ptr<const Tokenizer> find_tokenizer(const fs::path& model,
                                                const TokenizerOptions& options) {
  std::error_code ignored;
  fs::path folder = fs::is_directory(model, ignored) ? model : model.parent_path();
  if (folder.empty())
    folder = ".";
  const fs::path file = file_in(folder);
  check(!file.empty(), Error::Kind::Input,
        "{}: no tokenizer in this folder (looked for tokenizer.json, tokenizer.model, "
        "tokenizer.model.v*, rwkv_vocab*.txt, "
        "stuffed_tokenizer.json){}. {}",
        folder.string(), why_absent(folder, "tokenizer.json"), kWhereToGet);
  return from_file(file.string(), options);
}

}  // namespace stuffed::io
