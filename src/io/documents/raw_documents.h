// Documents as their files hold them, one after the other, each giving as many tokens as are asked
// for: the token source cuts, skips and joins them.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "stuffed/core/error.h"
#include "stuffed/io/byte_stream.h"
#include "stuffed/io/token_source.h"

namespace stuffed::io {

/// A line that cannot be read, while those after it can.
class UnreadableLine : public Error {
 public:
  explicit UnreadableLine(const Error& why) : Error(why.kind(), why.what()) {}
};

class RawDocument {
 public:
  explicit RawDocument(std::string name, int64_t line = 0) : name_(std::move(name)), line_(line) {}
  virtual ~RawDocument() = default;
  const std::string& name() const { return name_; }
  int64_t line() const { return line_; }   // of JSONL, from 1
  size_t given() const { return given_; }  // tokens, as give() was told
  void give(size_t tokens) { given_ += tokens; }

  /// Appends tokens until there are `count`, or more if that is convenient, or the document ends.
  /// Errors  Input; UnreadableLine, behind which the next document can be asked for after skip()
  virtual void read(size_t count, std::vector<int32_t>& tokens) = 0;
  /// Looks whether the rest of it can be read, where the next document comes behind that.
  virtual void finish() {}
  /// After UnreadableLine: passes over the rest of the line.
  virtual void skip() {}

 private:
  std::string name_;
  int64_t line_;
  size_t given_ = 0;
};

/// The next document, which is read to where it is wanted and dropped before the next one is asked
/// for; null at the end.
using RawDocuments = std::function<std::unique_ptr<RawDocument>()>;

/// What is read from pipes is told to `piped`.
RawDocuments text_documents(const SourceOptions& options,
                            std::shared_ptr<const Tokenizer> tokenizer,
                            const std::shared_ptr<PipeRecord>& piped,
                            json& identity);
RawDocuments jsonl_documents(const SourceOptions& options,
                             std::shared_ptr<const Tokenizer> tokenizer,
                             const std::shared_ptr<PipeRecord>& piped,
                             json& identity);
RawDocuments token_documents(const SourceOptions& options, json& identity);
RawDocuments prompt_document(const SourceOptions& options,
                             std::shared_ptr<const Tokenizer> tokenizer,
                             json& identity);

}  // namespace stuffed::io
