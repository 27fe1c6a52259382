#include "stuffed/io/shards.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::io {

namespace fs = std::filesystem;

namespace {

constexpr const char* kSchema = "stuffed.shards";
constexpr int kVersion = 1;

/// The narrowest type that holds all ids.
at::ScalarType type_of(int64_t vocab) {
  return vocab <= 256 ? at::kByte : vocab <= 65536 ? at::kUInt16 : at::kInt;
}

template <class T>
void copy_ids(const Tensor& ids, int64_t begin, std::span<int64_t> out) {
  const T* const from = static_cast<const T*>(ids.const_data_ptr()) + begin;
  std::copy(from, from + out.size(), out.begin());
}

template <class T>
void narrow_ids(const std::vector<int32_t>& ids, const Tensor& to) {
  std::transform(ids.begin(), ids.end(), static_cast<T*>(to.data_ptr()),
                 [](int32_t id) { return static_cast<T>(id); });
}

Tensor narrowed(const std::vector<int32_t>& ids, at::ScalarType type) {
  const Tensor to = at::empty({static_cast<int64_t>(ids.size())}, type);
  if (type == at::kByte)
    narrow_ids<uint8_t>(ids, to);
  else if (type == at::kUInt16)
    narrow_ids<uint16_t>(ids, to);
  else
    narrow_ids<int32_t>(ids, to);
  return to;
}

json read_index(const fs::path& path) {
  const json index = read_json(path);
  check(index.is_object() && index.value("schema", "") == kSchema, Error::Kind::Input,
        "{}: is no set of shards such as `stuffed tokenize --shards` writes", path.string());
  check(index.value("version", json()) == kVersion, Error::Kind::Input,
        "{}: has version {} of its kind, this stuffed reads {}", path.string(),
        index.value("version", json()).dump(), kVersion);
  return index;
}

/// Whether the folder holds nothing but what a run left that was stopped before it wrote shards.json.
bool has_leavings_alone(const fs::path& folder, const std::string& tokenizer) {
  bool has_shard = false;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const bool is_shard = name.starts_with("shard-");
    if (!is_shard && !name.starts_with(kShardsFile) && !name.starts_with(tokenizer))
      return false;
    has_shard = has_shard || is_shard;
  }
  return has_shard;
}

void remove_shards(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> shards;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().filename().string().starts_with("shard-"))
      shards.push_back(entry.path());
  for (const fs::path& shard : shards)
    fs::remove(shard, error);
}

/// What an edited shards.json is wrong in.
template <class F>
void reading(const fs::path& path, const F& read) {
  try {
    read();
  } catch (const json::exception& error) {
    fail(Error::Kind::Input, "{}: {}", path.string(), reason_of(error));
  }
}

}  // namespace

TokenShards TokenShards::open(const fs::path& folder) {
  const fs::path path = folder / kShardsFile;
  std::error_code ignored;
  check(fs::exists(path, ignored), Error::Kind::Input,
        "{}: has no {}; shards are written by `stuffed tokenize --shards {} ...`, which may have "
        "been stopped",
        folder.string(), kShardsFile, folder.string());
  const json index = read_index(path);
  TokenShards set;
  set.folder_ = folder;
  set.hash_ = sha256_file(path);
  reading(path, [&] {
    set.tokenizer_ = index.at("tokenizer");
    set.made_from_ = index.value("made_from", json());
    for (const json& shard : index.at("shards"))
      set.add_shard(shard, folder / shard.at("file").get<std::string>());
    check(set.documents() > 0 && index.at("documents") == set.documents() &&
              index.at("tokens") == set.tokens(),
          Error::Kind::Input, "{}: says {} documents of {} tokens, but the shards have {} of {}",
          path.string(), index.at("documents").dump(), index.at("tokens").dump(), set.documents(),
          set.tokens());
  });
  return set;
}

void TokenShards::add_shard(const json& shard, const fs::path& file) {
  const TensorFile tensors = TensorFile::open(file);
  check(shard.at("sha256") == sha256_file(file), Error::Kind::Input,
        "{}: is not the file that {} was written with, or is damaged; write the shards anew",
        file.string(), kShardsFile);
  check(tensors.has("tokens") && tensors.has("ends"), Error::Kind::Input,
        "{}: is no shard: it has no tensors 'tokens' and 'ends'", file.string());
  const Tensor ids = tensors.load("tokens"), ends = tensors.load("ends");
  const auto type = ids.scalar_type();
  check(ids.dim() == 1 && ends.dim() == 1 && ends.scalar_type() == at::kLong &&
            (type == at::kByte || type == at::kUInt16 || type == at::kInt) &&
            shard.at("tokens") == ids.numel() && shard.at("documents") == ends.numel(),
        Error::Kind::Input, "{}: does not hold what {} says; write the shards anew", file.string(),
        kShardsFile);
  int64_t begin = 0;
  for (int64_t i = 0; i < ends.numel(); ++i) {
    const int64_t end = ends.const_data_ptr<int64_t>()[i];
    check(end > begin && end <= ids.numel(), Error::Kind::Input,
          "{}: document {} ends at token {}, behind {}; write the shards anew", file.string(), i,
          end, begin);
    places_.push_back({static_cast<int32_t>(shards_.size()), begin, end});
    begin = end;
  }
  shards_.push_back(ids);
  tokens_ += begin;
}

int64_t TokenShards::length(int64_t document) const {
  const Place& place = places_[static_cast<size_t>(document)];
  return place.end - place.begin;
}

void TokenShards::copy(int64_t document, int64_t begin, std::span<int64_t> out) const {
  const Place& place = places_[static_cast<size_t>(document)];
  const Tensor& ids = shards_[static_cast<size_t>(place.shard)];
  begin += place.begin;
  if (ids.scalar_type() == at::kByte)
    copy_ids<uint8_t>(ids, begin, out);
  else if (ids.scalar_type() == at::kUInt16)
    copy_ids<uint16_t>(ids, begin, out);
  else
    copy_ids<int32_t>(ids, begin, out);
}

bool holds_shards(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / kShardsFile, error);
}

json shards_origin(const ShardOptions& options, const json& sources) {
  return {{"sources", sources},
          {"min_document_tokens", options.shortest_tokens},
          {"shard_tokens", options.shard_tokens},
          {"ends_documents", options.ends_documents}};
}

ShardWriter::ShardWriter(const fs::path& folder,
                         std::shared_ptr<const Tokenizer> tokenizer,
                         const ShardOptions& options,
                         bool overwrite)
    : folder_(folder), tokenizer_(std::move(tokenizer)), options_(options) {
  std::error_code error;
  if (fs::is_directory(folder, error))
    lock_ = std::make_unique<WriterLock>(folder);  // before anything in it is judged
  const bool is_set = holds_shards(folder);
  check(is_set || !fs::exists(folder, error) || fs::is_empty(folder, error) ||
            has_leavings_alone(folder, saved_tokenizer_name(*tokenizer_)),
        Error::Kind::Input, "{}: exists and is not a set of shards; choose another folder",
        folder.string());
  if (is_set) {
    read_index(folder / kShardsFile);
    check(overwrite, Error::Kind::Usage,
          "{}: holds a set of shards made from other input or options; choose another folder, or "
          "give --overwrite",
          folder.string());
    fs::remove(folder / kShardsFile, error);
  }
  remove_shards(folder);
  fs::create_directories(folder, error);
  check(fs::is_directory(folder), Error::Kind::Output, "{}: cannot be made: {}", folder.string(),
        error.message());
  if (!lock_)
    lock_ = std::make_unique<WriterLock>(folder);
}

void ShardWriter::add(std::span<const int32_t> document) {
  if (static_cast<int64_t>(document.size()) < std::max<int64_t>(1, options_.shortest_tokens)) {
    ++left_out_;
    return;
  }
  ids_.insert(ids_.end(), document.begin(), document.end());
  if (options_.ends_documents && tokenizer_->eos())
    ids_.push_back(static_cast<int32_t>(*tokenizer_->eos()));
  ends_.push_back(static_cast<int64_t>(ids_.size()));
  if (static_cast<int64_t>(ids_.size()) >= options_.shard_tokens)
    close_shard();
}

void ShardWriter::close_shard() {
  if (ends_.empty())
    return;
  const std::string name = fmt::format("shard-{:05}.safetensors", shards_.size());
  write_safetensors(folder_ / name, {{"tokens", narrowed(ids_, type_of(tokenizer_->vocab_size()))},
                                     {"ends", at::tensor(ends_)}});
  shards_.push_back({{"file", name},
                     {"documents", ends_.size()},
                     {"tokens", ids_.size()},
                     {"sha256", sha256_file(folder_ / name)}});
  documents_ += static_cast<int64_t>(ends_.size());
  tokens_ += static_cast<int64_t>(ids_.size());
  ids_.clear();
  ends_.clear();
}

void ShardWriter::finish(const json& sources) {
  close_shard();
  check(documents_ > 0, Error::Kind::Input,
        "no document has {} tokens or more ({} were shorter); give a smaller --min-document",
        options_.shortest_tokens, left_out_);
  save_tokenizer(*tokenizer_, folder_);
  const auto id = [](const std::optional<int64_t>& token) { return token ? json(*token) : json(); };
  const json made_from = sources.is_null() ? json() : shards_origin(options_, sources);
  const json index = {{"schema", kSchema},
                      {"version", kVersion},
                      {"tokenizer",
                       {{"kind", tokenizer_->kind()},
                        {"sha256", tokenizer_->hash()},
                        {"vocab_size", tokenizer_->vocab_size()},
                        {"bos", id(tokenizer_->bos())},
                        {"eos", options_.ends_documents ? id(tokenizer_->eos()) : json()}}},
                      {"min_document_tokens", options_.shortest_tokens},
                      {"made_from", made_from},
                      {"left_out", left_out_},
                      {"documents", documents_},
                      {"tokens", tokens_},
                      {"shards", shards_}};
  write_text(folder_ / kShardsFile, index.dump(2) + "\n");
}

std::string saved_tokenizer_name(const Tokenizer& tokenizer) {
  if (tokenizer.kind() == "bytes")
    return "stuffed_tokenizer.json";
  const std::string name = fs::path(tokenizer.source()).filename().string();
  if (name.ends_with(".json"))
    return "tokenizer.json";
  if (name.ends_with(".txt"))
    return name.starts_with("rwkv_vocab") ? name : "rwkv_vocab.txt";
  return name.starts_with("tokenizer.model") ? name : "tokenizer.model";
}

void save_tokenizer(const Tokenizer& tokenizer, const fs::path& folder) {
  const fs::path to = folder / saved_tokenizer_name(tokenizer);
  if (tokenizer.kind() == "bytes")
    return write_text(to, json{{"tokenizer", "bytes"}}.dump() + "\n");
  std::error_code error;
  fs::copy_file(tokenizer.source(), to, fs::copy_options::overwrite_existing, error);
  check(!error, Error::Kind::Output, "{}: the tokenizer cannot be copied there: {}", to.string(),
        error.message());
}

}  // namespace stuffed::io
