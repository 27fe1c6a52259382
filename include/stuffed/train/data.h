// Which tokens a training step sees. Every draw is a function of (seed, step, row), and of how many
// windows of a set of shards were taken before, so a resumed run sees what a run that never stopped
// would have seen.
#pragma once
#include <compare>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "stuffed/core/rng.h"
#include "stuffed/core/tensor.h"
#include "stuffed/io/tokenizer.h"

namespace stuffed::train {

/// Where a window comes from. Their order is that in which shares are laid side by side.
struct Source {
  enum Kind {
    Text,     // a random place in the training files
    Repeat,   // a random string, repeated to fill the window
    Passkey,  // passkey prompts with their answers (stuffed/io/passkey_text.h)
    Recall,   // pairs of keys and values, then the keys again in another order
    Mqar,     // likewise with filler around the pairs (stuffed/io/associative_recall.h)
    Shards,   // the documents of a set of shards in a random order, each once an epoch
  };
  Source(Kind of_kind, std::string of_name = {}) : kind(of_kind), name(std::move(of_name)) {}
  Kind kind;
  std::string name;  // of the set of shards
  auto operator<=>(const Source&) const = default;
};

std::string source_name(const Source& source);

struct DataConfig {
  // Files, pipes or "-" (standard input), as ByteStream reads them.
  std::vector<std::filesystem::path> text = {};
  std::vector<std::filesystem::path> held_out = {};  // validation text; never trained on
  // Folders with shards, by the names that the mixture calls them by.
  std::map<std::string, std::filesystem::path> shards = {}, held_out_shards = {};
  std::string tokenizer = {};  // file, folder or "bytes"; empty: the shards', or bytes without any
  std::map<Source, double> mix = {{Source::Text, 1.0}};  // shares of the windows; sum to 1
  int64_t repeat_min = 8, repeat_max = 64;               // tokens of a repeated string
  int64_t recall_pairs = 16;                             // of recall and mqar, at most
  int64_t window = 512;  // tokens drawn at once; cut into sequences of the training length
  uint64_t seed = 0;
  bool wait = false;  // for a pipe that gives nothing, without end
};

/// Throws Usage for a name that is neither a task's nor one of the sets of shards.
Source parse_source(std::string_view name, const DataConfig& config = {});

/// How many windows of each set of shards were taken.
using DataPosition = std::map<std::string, int64_t>;

struct Batch {
  Tensor
      tokens;  // [rows, length+1] int64; the last of a row is the first of the next in its window
  std::vector<std::vector<int64_t>> starts;  // by row: where documents begin inside its window
};

class TokenCorpus;
class ShardOrder;

/// All that a run may see: texts in memory, shards mapped.
class TrainingData {
 public:
  /// Errors  Input if a file is unreadable or shorter than a window, or shards are of another
  ///         tokenizer; Usage if the mixture is no mixture, or wants text and no file is named
  explicit TrainingData(const DataConfig& config);
  ~TrainingData();

  /// Windows of step `step`, cut into sequences of `length`, which divides the window: rows in the
  /// order of the tokens, so runs that differ in `length` alone see the same tokens in the same
  /// steps. Which source a window comes from is drawn so that each step has its share to within one
  /// window. `position` moves on.
  Batch sequences(int64_t step, int64_t windows, int64_t length, DataPosition& position) const;

  /// Whether sequences for validation can be had of this source.
  bool has_validation(const Source& source) const;
  /// Validation sequences [rows, length+1] of one source: fixed, evenly spaced places of the
  /// held-out text, the beginnings of held-out documents, or draws that no training step makes.
  Tensor validation(const Source& source, int64_t rows, int64_t length) const;

  const io::Tokenizer& tokenizer() const { return *tokenizer_; }
  /// SHA-256 over the training files and over the held-out files.
  std::string text_hash() const;
  std::string held_out_hash() const;
  /// SHA-256 of a set's shards.json, by name.
  std::map<std::string, std::string> shard_hashes(bool held_out) const;

 private:
  std::vector<Source> sources_of(int64_t step, int64_t windows) const;
  void fill(const Source& source, Rng& rng, std::span<int64_t> out) const;

  DataConfig config_;
  std::shared_ptr<const io::Tokenizer> tokenizer_;
  std::unique_ptr<TokenCorpus> text_, held_out_;
  std::map<std::string, std::unique_ptr<ShardOrder>> shards_, held_out_shards_;
};

}  // namespace stuffed::train
