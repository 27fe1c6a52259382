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
  std::vector<std::filesystem::path> text;  // each file one document, UTF-8
  std::filesystem::path jsonl;              // each line one document
  std::string field = "text";    // of a JSONL line; "a.b" descends, also into JSON held in strings
  std::filesystem::path tokens;  // safetensors with integers [B,N+1]
  std::string tokens_key = "tokens";
  std::string prompt;     // "newlines" or "capital", repeated until it is long enough
  int64_t length = 0;     // scored targets per document; 0: all there are
  int64_t documents = 0;  // 0: all there are
  Short when_short = Short::Refuse;
};

struct Boundary {
  int64_t position = 0;  // index of the first token of a joined document
  std::string name;
};

struct Document {
  std::string name;                  // "war.txt", "books.jsonl:3", "t.safetensors[0]", "newlines"
  std::vector<int32_t> tokens;       // N+1 ids for N targets
  std::vector<Boundary> boundaries;  // when packed
};

/// A document that was left out because it is too short.
struct Skipped {
  std::string name;
  int64_t targets = 0;
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

  /// The next document, or nothing at the end. One document is in memory at a time.
  /// Errors  Input for text that is not UTF-8 (file and byte), an id out of range, a document that
  /// is too short,
  ///         fewer documents than were asked for
  std::optional<Document> next();

  /// What decides the documents: kind, hashes of the files, length, and the like.
  const json& identity() const;
  const std::vector<Skipped>& skipped() const;
  int64_t leftover_tokens() const;  // packed, but too few to fill one more document

 private:
  struct Impl;
  explicit TokenSource(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace stuffed::io
