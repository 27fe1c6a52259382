// Documents to score, one at a time: from text, JSON Lines, a file of tokens, or a prompt that
// repeats.
#pragma once
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "stuffed/io/json.h"
#include "stuffed/io/tokenizer.h"

namespace stuffed::io {

/// What to do with a document that has fewer targets than `length`.
enum class Short { Refuse, Skip, Pack };

/// Exactly one of text, jsonl, tokens and prompt is given.
struct SourceOptions {
  // Text and JSONL may be standard input ("-") or a pipe, and gzip or zstd.
  std::vector<std::filesystem::path> text;  // each file one document, UTF-8
  std::filesystem::path jsonl;              // each line one document
  std::string field = "text";    // of a JSONL line; "a.b" descends, also into JSON held in strings
  std::filesystem::path tokens;  // safetensors with integers [B,N+1]
  std::string tokens_key = "tokens";
  std::string prompt;           // "newlines" or "capital", repeated until it is long enough
  int64_t length = 0;           // scored targets per document; 0: all there are
  int64_t documents = 0;        // 0: all there are
  int64_t part = 0, parts = 1;  // documents whose number is part, part + parts, part + 2 parts, ...
  Short when_short = Short::Refuse;
  bool skip_bad_lines = false;   // of JSONL: those that are not JSON with the field
  bool wait = false;             // for a pipe that gives nothing, without end
  double patience_seconds = 10;  // how long otherwise
};

struct Boundary {
  int64_t position = 0;  // index of the first token of a joined document
  std::string name;
};

/// What pipes gave up to and including a document, decompressed.
struct PipedInput {
  int64_t bytes = 0;
  std::string sha256;
};

struct Document {
  std::string name;  // "war.txt", "books.jsonl:3", "t.safetensors[0]", "newlines", "pipe"
  int64_t number =
      0;  // from 0; lines that were left out as bad count, documents that were short do not
  std::vector<int32_t> tokens;       // N+1 ids for N targets
  std::vector<Boundary> boundaries;  // when packed
  std::optional<PipedInput> piped;   // if any of the text came through pipes
};

/// A document that was left out because it is too short.
struct Skipped {
  std::string name;
  int64_t targets = 0;
};

/// A line of JSONL that was left out because it cannot be read.
struct BadLine {
  int64_t number = 0;  // from 1
  std::string reason;
};

class TokenSource {
 public:
  /// `tokenizer` may be null for --tokens. Ids must be below `vocab`.
  /// Errors  Usage for options that contradict each other; Input for a file that is missing or not
  /// understood
  static TokenSource open(const SourceOptions& options,
                          std::shared_ptr<const Tokenizer> tokenizer,
                          int64_t vocab);
  ~TokenSource();
  TokenSource(TokenSource&&) noexcept;

  /// The next document, or nothing at the end. What is in memory are the tokens of one document, up
  /// to the length asked for, and a block of its text. Of a longer text no more is read than that
  /// takes; of a longer line the rest is looked at, too.
  /// Errors  Input for text that is not UTF-8 (file and byte), a line that cannot be read, an id
  /// out
  ///         of range, a document that is too short, fewer documents than were asked for, and what
  ///         ByteStream refuses; Interrupted
  std::optional<Document> next();
  /// While another thread is in next(): does anyone wait for it? A pipe that gives nothing is an
  /// error only then.
  void set_awaited(bool is_awaited);

  /// What decides the documents: kind, hashes of the files, length, and the like.
  const json& identity() const;
  const std::vector<Skipped>& skipped() const;
  /// Those met so far, if they are to be left out.
  const std::vector<BadLine>& bad_lines() const;
  int64_t leftover_tokens() const;  // packed, but too few to fill one more document

 private:
  struct Impl;
  explicit TokenSource(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace stuffed::io
