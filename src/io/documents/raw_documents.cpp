#include "raw_documents.h"

#include <algorithm>
#include <limits>
#include <utility>

#include <ATen/ATen.h>

#include "repeated_text.h"
#include "src/io/json_field.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/io/text_encoder.h"

namespace stuffed::io {

namespace {

constexpr size_t kTextBlock = size_t{1} << 16;

void check_size(const ByteStream& stream, size_t tokens, size_t wanted) {
  if (wanted == std::string::npos)
    check_document_size(stream, tokens);
}

/// As results call it: a pipe's own name (/dev/fd/63) is another one at every run.
std::string document_name(const fs::path& path) {
  if (path == "-")
    return "stdin";
  return is_pipe(path) ? "pipe" : path.filename().string();
}

/// Null for a pipe, of which nothing is known before it is read.
json file_hash(const fs::path& path) {
  return is_pipe(path) ? json() : json(sha256_file(path));
}

StreamOptions stream_options(const SourceOptions& options,
                             const std::shared_ptr<PipeRecord>& piped) {
  return {.wait = options.wait, .patience_seconds = options.patience_seconds, .record = piped};
}

class TextDocument final : public RawDocument {
 public:
  TextDocument(std::string name, ByteStream stream, std::shared_ptr<const Tokenizer> tokenizer)
      : RawDocument(std::move(name)),
        stream_(std::move(stream)),
        tokenizer_(std::move(tokenizer)),
        encoder_(*tokenizer_, stream_.name(), /*checks_utf8=*/true) {}

  void read(size_t count, std::vector<int32_t>& tokens) override {
    while (!at_end_ && tokens.size() < count) {
      add_block(tokens);
      check_size(stream_, tokens.size(), count);
    }
  }

 private:
  /// Of a fixed size, however the bytes trickle in: how far a text is read, and so what is known of
  /// a pipe, depends on nothing else.
  void add_block(std::vector<int32_t>& tokens) {
    std::string block;
    while (block.size() < kTextBlock && !at_end_) {
      const std::string_view text = stream_.peek().substr(0, kTextBlock - block.size());
      at_end_ = text.empty();
      block += text;
      stream_.take(text.size());
    }
    encoder_.add(block, tokens);
    if (at_end_)
      encoder_.finish(tokens);
  }

  ByteStream stream_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  TextEncoder encoder_;
  bool at_end_ = false;
};

/// One line of a stream that its documents share.
class LineDocument final : public RawDocument {
 public:
  LineDocument(std::string name,
               int64_t line,
               std::shared_ptr<ByteStream> stream,
               std::shared_ptr<const Tokenizer> tokenizer,
               const std::string& field)
      : RawDocument(std::move(name), line),
        stream_(std::move(stream)),
        tokenizer_(std::move(tokenizer)),
        where_(fmt::format("{}: line {}", stream_->name(), line)),
        encoder_(*tokenizer_, where_, /*checks_utf8=*/true),
        field_(field, where_, [this](std::string_view text) {
          if (is_wanted_)  // else the rest of the line is merely looked at
            text_ += text;
        }) {}

  void read(size_t count, std::vector<int32_t>& tokens) override {
    is_wanted_ = true;
    while (!at_end_ && tokens.size() < count) {
      add_block(tokens);
      check_size(*stream_, tokens.size(), count);
    }
    is_wanted_ = false;
  }

  void finish() override {
    while (!at_end_)
      advance(kTextBlock);
  }
  void skip() override {
    for (std::string_view text; !(text = stream_->peek()).empty();) {
      const size_t newline = text.find('\n');
      stream_->take(newline == text.npos ? text.size() : newline + 1);
      if (newline != text.npos)
        return;
    }
  }

 private:
  /// As in a text: what is read depends on nothing but the line.
  void add_block(std::vector<int32_t>& tokens) {
    for (size_t left = kTextBlock; left > 0 && !at_end_;)
      left -= advance(left);
    encoder_.add(text_, tokens);
    text_.clear();
    if (at_end_)
      encoder_.finish(tokens);
  }

  /// At most `most` bytes; returns how many.
  size_t advance(size_t most) {
    const std::string_view text = stream_->peek().substr(0, most);
    const size_t newline = text.find('\n');
    at_end_ = text.empty() || newline != text.npos;
    const size_t bytes = std::min(newline, text.size());
    try {
      field_.add(text.substr(0, bytes));
      if (at_end_)
        field_.finish();
    } catch (const Error& error) {
      throw UnreadableLine(error);
    }
    stream_->take(bytes + (newline != text.npos ? 1 : 0));
    return bytes;
  }

  std::shared_ptr<ByteStream> stream_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string where_;
  TextEncoder encoder_;
  JsonField field_;
  bool at_end_ = false, is_wanted_ = false;
  std::string text_;  // of the field, not yet encoded
};

/// Passes over empty lines: true if there is another one, `line` is then its number.
bool find_line(ByteStream& stream, int64_t& line) {
  ++line;
  for (std::string_view text; !(text = stream.peek()).empty();) {
    const size_t begin = std::min(text.find_first_not_of(" \t\r"), text.size());
    const bool is_empty_line = begin < text.size() && text[begin] == '\n';
    stream.take(begin + (is_empty_line ? 1 : 0));
    line += is_empty_line;
    if (begin < text.size() && !is_empty_line)
      return true;
  }
  return false;
}

/// A row of a token file.
class RowDocument final : public RawDocument {
 public:
  RowDocument(std::string name, std::string path, Tensor row)
      : RawDocument(std::move(name)), path_(std::move(path)), row_(std::move(row)) {}

  void read(size_t count, std::vector<int32_t>& tokens) override {
    while (at_ < row_.size(0) && tokens.size() < count)
      read_block(tokens);
  }
  void finish() override {
    for (std::vector<int32_t> unused; at_ < row_.size(0); unused.clear())
      read_block(unused);
  }

 private:
  void read_block(std::vector<int32_t>& tokens) {
    constexpr int64_t kBlock = int64_t{1} << 16;
    for (const int64_t end = std::min(at_ + kBlock, row_.size(0)); at_ < end;)
      read_part(end, tokens);
  }

  /// Of so many that LibTorch converts them on this thread: others compute meanwhile.
  void read_part(int64_t end, std::vector<int32_t>& tokens) {
    constexpr int64_t kPart = int64_t{1} << 14;
    const Tensor ids = row_.narrow(0, at_, std::min(kPart, end - at_)).to(at::kLong).contiguous();
    for (const int64_t id :
         std::span(ids.const_data_ptr<int64_t>(), static_cast<size_t>(ids.numel()))) {
      check(id >= 0 && id <= std::numeric_limits<int32_t>::max(), Error::Kind::Input,
            "{}: token {} of {} is {}, not a token id", path_, at_, name(), id);
      tokens.push_back(static_cast<int32_t>(id));
      ++at_;
    }
  }

  std::string path_;
  Tensor row_;
  int64_t at_ = 0;
};

/// A text that repeats itself, and the number of its repetitions.
struct Prompt {
  std::string unit;
  int64_t units = 0;  // at a time
};

Prompt prompt_of(const std::string& name) {
  if (name == "newlines")
    return {"\n", 300000};
  if (name == "capital")
    return {
        "The capital of China is Beijing. The capital of USA is Washington. The capital of Norway "
        "is Oslo. ",
        2000};
  fail(Error::Kind::Usage, "--prompt: '{}' is not known; newlines and capital are", name);
}

/// A prompt, repeated until it has more than `length` tokens.
class PromptDocument final : public RawDocument {
 public:
  PromptDocument(const SourceOptions& options, std::shared_ptr<const Tokenizer> tokenizer)
      : RawDocument(options.prompt),
        tokenizer_(std::move(tokenizer)),
        text_(*tokenizer_, prompt_of(options.prompt).unit) {
    const Prompt prompt = prompt_of(options.prompt);
    const size_t bytes_at_a_time = prompt.unit.size() * static_cast<size_t>(prompt.units);
    for (int64_t times = 1; end_ <= options.length;) {
      bytes_ = bytes_at_a_time * static_cast<size_t>(times);
      end_ = text_.count(bytes_);
      check(end_ > 0, Error::Kind::Internal, "--prompt {} has no tokens", options.prompt);
      times = std::max(times + 1, times * (options.length + 1) / end_);
    }
    if (options.when_short != Short::Pack)  // else the rest fills further documents
      end_ = options.length + 1;
  }

  void read(size_t, std::vector<int32_t>& tokens) override {
    text_.append(bytes_, std::exchange(at_, end_), end_, tokens);
  }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  RepeatedText text_;
  size_t bytes_ = 0;
  int64_t at_ = 0, end_ = 0;  // tokens
};

}  // namespace

RawDocuments text_documents(const SourceOptions& options,
                            std::shared_ptr<const Tokenizer> tokenizer,
                            const std::shared_ptr<PipeRecord>& piped,
                            json& identity) {
  identity["kind"] = "text";
  struct File {
    fs::path path;
    std::string name;
    std::optional<ByteStream> pipe;
  };
  auto files = std::make_shared<std::vector<File>>();
  for (const fs::path& path : options.text) {
    identity["sha256"].push_back(file_hash(path));
    files->push_back({.path = path, .name = document_name(path), .pipe = {}});
    // All pipes are opened now, so that none of their writers waits for a reader in vain.
    if (is_pipe(path))
      files->back().pipe = ByteStream::open(path, stream_options(options, piped));
  }
  return [files, tokenizer, next = size_t{0}]() mutable -> std::unique_ptr<RawDocument> {
    if (next == files->size())
      return nullptr;
    File& file = (*files)[next++];
    return std::make_unique<TextDocument>(
        file.name, file.pipe ? std::move(*file.pipe) : ByteStream::open(file.path), tokenizer);
  };
}

RawDocuments jsonl_documents(const SourceOptions& options,
                             std::shared_ptr<const Tokenizer> tokenizer,
                             const std::shared_ptr<PipeRecord>& piped,
                             json& identity) {
  identity["kind"] = "jsonl";
  identity["sha256"] = file_hash(options.jsonl);
  identity["field"] = options.field;
  auto stream =
      std::make_shared<ByteStream>(ByteStream::open(options.jsonl, stream_options(options, piped)));
  const std::string name = document_name(options.jsonl);
  return [field = options.field, tokenizer, stream, name,
          line = int64_t{0}]() mutable -> std::unique_ptr<RawDocument> {
    if (!find_line(*stream, line))
      return nullptr;
    return std::make_unique<LineDocument>(fmt::format("{}:{}", name, line), line, stream, tokenizer,
                                          field);
  };
}

RawDocuments token_documents(const SourceOptions& options, json& identity) {
  const TensorFile file = TensorFile::open(options.tokens);
  const std::string where = options.tokens.string();
  check(file.has(options.tokens_key), Error::Kind::Input,
        "{}: has no tensor '{}'; name it with --tokens-key", where, options.tokens_key);
  Tensor tokens = file.load(options.tokens_key);
  check(at::isIntegralType(tokens.scalar_type(), false) && (tokens.dim() == 1 || tokens.dim() == 2),
        Error::Kind::Input,
        "{}: tensor '{}' is {} of {} axes, expected integers [documents, tokens]", where,
        options.tokens_key, toString(tokens.scalar_type()), tokens.dim());
  identity["kind"] = "tokens";
  identity["sha256"] = sha256_file(options.tokens);
  identity["key"] = options.tokens_key;
  if (tokens.dim() == 1)
    tokens = tokens.unsqueeze(0);
  return [file, tokens, path = options.tokens,
          row = int64_t{0}]() mutable -> std::unique_ptr<RawDocument> {
    if (row == tokens.size(0))
      return nullptr;
    const std::string name = fmt::format("{}[{}]", path.filename().string(), row);
    return std::make_unique<RowDocument>(name, path.string(), tokens[row++]);
  };
}

RawDocuments prompt_document(const SourceOptions& options,
                             std::shared_ptr<const Tokenizer> tokenizer,
                             json& identity) {
  check(options.length > 0, Error::Kind::Usage, "--prompt repeats without end; give --length");
  identity["kind"] = "prompt";
  identity["name"] = options.prompt;
  prompt_of(options.prompt);  // is it known?
  return [options, tokenizer, given = false]() mutable -> std::unique_ptr<RawDocument> {
    if (std::exchange(given, true))
      return nullptr;
    return std::make_unique<PromptDocument>(options, tokenizer);
  };
}

}  // namespace stuffed::io
