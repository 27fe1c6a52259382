// Documents as token ids in files that are mapped into memory: what training reads, far more of it
// than fits. A folder holds shards.json, the shards, and the tokenizer that made them.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "stuffed/io/json.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/io/tokenizer.h"
#include "stuffed/io/writer_lock.h"

namespace stuffed::io {

inline constexpr const char* kShardsFile = "shards.json";

class TokenShards {
 public:
  /// Reads shards.json, and maps the shards once their hashes are found right.
  /// Errors  Input if the folder is none that ShardWriter finished, or a shard is not as it says
  static TokenShards open(const std::filesystem::path& folder);

  int64_t documents() const { return static_cast<int64_t>(places_.size()); }
  int64_t tokens() const { return tokens_; }
  int64_t length(int64_t document) const;  // tokens
  /// Tokens of the document from `begin` on.
  void copy(int64_t document, int64_t begin, std::span<int64_t> out) const;
  /// Of shards.json, which holds the hashes of all shards and of the tokenizer.
  const std::string& hash() const { return hash_; }
  const json& tokenizer() const { return tokenizer_; }  // kind, sha256, ...
  const json& made_from() const { return made_from_; }  // shards_origin(), or null
  const std::filesystem::path& folder() const { return folder_; }

 private:
  struct Place {
    int32_t shard;
    int64_t begin, end;  // within the shard
  };
  void add_shard(const json& shard, const std::filesystem::path& file);

  std::filesystem::path folder_;
  std::vector<Tensor> shards_;  // [N] of u8, u16 or i32, mapped
  std::vector<Place> places_;   // of documents
  int64_t tokens_ = 0;
  std::string hash_;
  json tokenizer_, made_from_;
};

/// Whether a finished set is there, or what says to be one.
bool holds_shards(const std::filesystem::path& folder);

struct ShardOptions {
  int64_t shortest_tokens = 1;               // documents below it are left out
  int64_t shard_tokens = int64_t{32} << 20;  // a shard is closed once it has so many
  bool ends_documents = true;                // with the tokenizer's end of text, if it has one
};

/// What decides the shards: the options, and TokenSource::identity() of each source in order.
json shards_origin(const ShardOptions& options, const json& sources);

/// Writes documents one after the other. The folder is a set of shards once finish() returns, and
/// not before; what a run left that was stopped earlier is removed by the next.
class ShardWriter {
 public:
  /// Errors  Usage if the folder holds a set already, unless `overwrite`; Input if it holds anything
  ///         else; Output if it cannot be made, or another process is writing into it
  ShardWriter(const std::filesystem::path& folder,
              std::shared_ptr<const Tokenizer> tokenizer,
              const ShardOptions& options,
              bool overwrite);

  /// Token ids as the tokenizer gives them. Errors  Output
  void add(std::span<const int32_t> document);
  /// `sources` is what was added as TokenSource::identity() says it, or null: then the set does not
  /// tell what it was made from. Errors  Input if no document was long enough; Output
  void finish(const json& sources = {});

  int64_t documents() const { return documents_; }
  int64_t tokens() const { return tokens_; }
  int64_t left_out() const { return left_out_; }  // documents that were too short

 private:
  void close_shard();

  std::filesystem::path folder_;
  std::unique_ptr<WriterLock> lock_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  ShardOptions options_;
  std::vector<int32_t> ids_;
  std::vector<int64_t> ends_;  // of the documents in the shard at hand
  json shards_ = json::array();
  int64_t documents_ = 0, tokens_ = 0, left_out_ = 0;
};

/// Copies the tokenizer's file into the folder under a name that find_tokenizer() knows; of "bytes"
/// it writes one.
/// Errors  Input, Output
void save_tokenizer(const Tokenizer& tokenizer, const std::filesystem::path& folder);
/// The name it gets there.
std::string saved_tokenizer_name(const Tokenizer& tokenizer);

}  // namespace stuffed::io
