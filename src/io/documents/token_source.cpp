// Cuts, skips or joins documents to the length asked for, and checks every id.
#include "stuffed/io/token_source.h"

#include <algorithm>
#include <unistd.h>

#include "raw_documents.h"
#include "stuffed/core/error.h"

namespace stuffed::io {

struct TokenSource::Impl {
  SourceOptions options;
  int64_t vocab = 0;
  RawDocuments raw;
  std::shared_ptr<PipeRecord> piped = std::make_shared<PipeRecord>();
  json identity = json::object();
  std::vector<Skipped> skipped;
  std::vector<BadLine> bad_lines;
  int64_t given = 0;     // of all parts
  bool is_empty = true;  // of this part, so far
  // Packing: what was read and not yet given lies in pool.tokens from pool_begin, to which the
  // boundaries are relative; open is the document that is not read to its end.
  Document pool;
  size_t pool_begin = 0;
  std::unique_ptr<RawDocument> open;

  size_t pooled() const { return pool.tokens.size() - pool_begin; }
  void read(RawDocument& document, size_t count, std::vector<int32_t>& tokens);
  bool leave_out(RawDocument& document, const Error& why);
  std::optional<Document> next_whole();
  std::optional<Document> next_cut();
  void add_whole_line();
  bool add_to_pool(size_t wanted);
  std::optional<Document> next_packed();
  std::optional<Document> next();
};

namespace {

void check_options(const SourceOptions& options, const Tokenizer* tokenizer) {
  const int kinds = !options.text.empty() + !options.jsonl.empty() + !options.tokens.empty() +
                    !options.prompt.empty();
  check(kinds == 1, Error::Kind::Usage,
        "give exactly one of --text, --jsonl, --tokens and --prompt (found {})", kinds);
  check(options.when_short != Short::Pack || options.length > 0, Error::Kind::Usage,
        "--pack needs --length");
  check(tokenizer != nullptr || !options.tokens.empty(), Error::Kind::Internal,
        "text without a tokenizer");
  const auto files = static_cast<int64_t>(options.text.size());
  check(options.when_short == Short::Pack || files == 0 || options.documents <= files,
        Error::Kind::Usage, "--documents {}: --text names only {}", options.documents, files);
  check(options.prompt.empty() || options.documents <= 1, Error::Kind::Usage,
        "--documents {}: a --prompt is one document", options.documents);
  check(std::ranges::count(options.text, std::filesystem::path("-")) <= 1, Error::Kind::Usage,
        "--text: standard input (-) can be read only once");
  check(!options.skip_bad_lines || !options.jsonl.empty(), Error::Kind::Usage,
        "--skip-bad-lines is for --jsonl");
}

/// A document's tokens lie in memory at once.
void check_memory(int64_t length) {
  const double needed = 4.0 * static_cast<double>(length);
  const double there =
      static_cast<double>(::sysconf(_SC_PHYS_PAGES)) * static_cast<double>(::sysconf(_SC_PAGESIZE));
  check(needed <= there, Error::Kind::Memory,
        "--length {}: the ids of one document take {:.0f} GiB, and this machine has {:.0f}", length,
        needed / (1 << 30), there / (1 << 30));
}

}  // namespace

/// Appends, and checks what is new.
void TokenSource::Impl::read(RawDocument& document, size_t count, std::vector<int32_t>& tokens) {
  const size_t before = tokens.size();
  document.read(count, tokens);
  for (size_t i = before; i < tokens.size(); ++i)
    check(tokens[i] < vocab, Error::Kind::Input,
          "{}: token {} is {}, but the model has only {} ids; were the tokens made with the "
          "model's tokenizer?",
          document.name(), document.given() + i - before, tokens[i], vocab);
  document.give(tokens.size() - before);
}

/// Whether a line that cannot be read is merely noted.
bool TokenSource::Impl::leave_out(RawDocument& document, const Error& why) {
  if (!options.skip_bad_lines)
    return false;
  bad_lines.push_back({document.line(), why.what()});
  document.skip();
  return true;
}

/// A document from its first token to the last one that is wanted.
std::optional<Document> TokenSource::Impl::next_whole() {
  const size_t wanted =
      options.length > 0 ? static_cast<size_t>(options.length) + 1 : std::string::npos;
  while (const std::unique_ptr<RawDocument> raw_document = raw()) {
    Document document{.name = raw_document->name(), .tokens = {}, .boundaries = {}, .piped = {}};
    try {
      read(*raw_document, wanted, document.tokens);
      raw_document->finish();
    } catch (const UnreadableLine& error) {
      if (leave_out(*raw_document, error))
        continue;
      throw;
    }
    return document;
  }
  return {};
}

std::optional<Document> TokenSource::Impl::next_cut() {
  while (std::optional<Document> document = next_whole()) {
    const int64_t targets = std::max<int64_t>(0, static_cast<int64_t>(document->tokens.size()) - 1);
    if (targets >= std::max<int64_t>(1, options.length)) {
      if (options.length > 0)
        document->tokens.resize(static_cast<size_t>(options.length) + 1);
      document->number = given + static_cast<int64_t>(bad_lines.size());
      return document;
    }
    check(options.when_short == Short::Skip, Error::Kind::Input,
          "{}: has {} targets to score, but at least {} are needed; give --skip-short, --pack or a "
          "smaller --length",
          document->name, targets, std::max<int64_t>(1, options.length));
    skipped.push_back({document->name, targets});
  }
  return {};
}

/// A line is read whole before any of it is given, as it may turn out to be unreadable.
void TokenSource::Impl::add_whole_line() {
  std::vector<int32_t> tokens;
  try {
    read(*open, std::string::npos, tokens);
    pool.boundaries.push_back({static_cast<int64_t>(pooled()), open->name()});
    pool.tokens.insert(pool.tokens.end(), tokens.begin(), tokens.end());
  } catch (const UnreadableLine& error) {
    if (!leave_out(*open, error))
      throw;
  }
  open.reset();
}

/// Reads on in the open document, or in the next one, until `wanted` tokens lie in the pool or the
/// document ends. False if there is no document any more.
bool TokenSource::Impl::add_to_pool(size_t wanted) {
  if (open == nullptr) {
    open = raw();
    if (open == nullptr)
      return false;
    if (options.skip_bad_lines) {
      add_whole_line();
      return true;
    }
    pool.boundaries.push_back({static_cast<int64_t>(pooled()), open->name()});
  }
  read(*open, pool_begin + wanted, pool.tokens);
  if (pooled() < wanted)
    open.reset();
  return true;
}

std::optional<Document> TokenSource::Impl::next_packed() {
  const size_t wanted = static_cast<size_t>(options.length) + 1;
  if (2 * pool_begin > pool.tokens.size()) {  // now and then: it moves the rest
    pool.tokens.erase(pool.tokens.begin(),
                      pool.tokens.begin() + static_cast<std::ptrdiff_t>(pool_begin));
    pool_begin = 0;
  }
  while (pooled() < wanted)
    if (!add_to_pool(wanted))
      return {};
  if (open != nullptr && pooled() == wanted)  // does its document go on?
    add_to_pool(wanted + 1);
  const auto begin = pool.tokens.begin() + static_cast<std::ptrdiff_t>(pool_begin);
  const auto cut = static_cast<std::ptrdiff_t>(wanted);
  Document document{.name = pool.boundaries.front().name,
                    .number = given,
                    .tokens = {begin, begin + cut},
                    .boundaries = {},
                    .piped = {}};
  pool_begin += wanted;
  std::vector<Boundary> left;
  for (const Boundary& boundary : pool.boundaries)
    (boundary.position < cut ? document.boundaries : left).push_back(boundary);
  for (Boundary& boundary : left)
    boundary.position -= cut;
  if (pooled() > 0 && (left.empty() || left.front().position > 0))  // its document goes on
    left.insert(left.begin(), {0, document.boundaries.back().name});
  pool.boundaries = std::move(left);
  return document;
}

TokenSource::TokenSource(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TokenSource::~TokenSource() = default;
TokenSource::TokenSource(TokenSource&&) noexcept = default;

TokenSource TokenSource::open(const SourceOptions& options,
                              std::shared_ptr<const Tokenizer> tokenizer,
                              int64_t vocab) {
  check_options(options, tokenizer.get());
  check_memory(options.length);
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->vocab = vocab;
  json& identity = impl->identity;
  impl->raw = !options.text.empty()     ? text_documents(options, tokenizer, impl->piped, identity)
              : !options.jsonl.empty()  ? jsonl_documents(options, tokenizer, impl->piped, identity)
              : !options.tokens.empty() ? token_documents(options, identity)
                                        : prompt_document(options, tokenizer, identity);
  identity["length_tokens"] = options.length;
  identity["documents"] = options.documents;
  identity["short"] = options.when_short == Short::Skip   ? "skip"
                      : options.when_short == Short::Pack ? "pack"
                                                          : "refuse";
  if (options.skip_bad_lines)
    identity["skip_bad_lines"] = true;
  if (tokenizer)
    identity["tokenizer"] = {{"kind", tokenizer->kind()},
                             {"sha256", tokenizer->hash()},
                             {"bos", tokenizer->bos() ? json(*tokenizer->bos()) : json()}};
  return TokenSource(std::move(impl));
}

/// Of whatever part.
std::optional<Document> TokenSource::Impl::next() {
  const int64_t wanted = options.documents;
  if (wanted > 0 && given == wanted)
    return {};
  std::optional<Document> document = options.when_short == Short::Pack ? next_packed() : next_cut();
  check(document.has_value() || given >= std::max<int64_t>(1, wanted), Error::Kind::Input,
        "found {} documents of at least {} targets, expected {} or more; give a smaller --length "
        "or --documents",
        given, std::max<int64_t>(1, options.length), std::max<int64_t>(1, wanted));
  given += document.has_value();
  return document;
}

std::optional<Document> TokenSource::next() {
  std::optional<Document> document = impl_->next();
  while (document && document->number % impl_->options.parts != impl_->options.part)
    document = impl_->next();
  check(document.has_value() || !impl_->is_empty, Error::Kind::Usage,
        "--part {}/{}: holds no document, as there are only {}; use fewer parts",
        impl_->options.part, impl_->options.parts, impl_->given);
  impl_->is_empty = false;
  if (document && impl_->piped->bytes() > 0)
    document->piped = {.bytes = impl_->piped->bytes(), .sha256 = impl_->piped->sha256()};
  return document;
}

void TokenSource::set_awaited(bool is_awaited) {
  impl_->piped->set_awaited(is_awaited);
}

const json& TokenSource::identity() const {
  return impl_->identity;
}
const std::vector<Skipped>& TokenSource::skipped() const {
  return impl_->skipped;
}
const std::vector<BadLine>& TokenSource::bad_lines() const {
  return impl_->bad_lines;
}
int64_t TokenSource::leftover_tokens() const {
  return static_cast<int64_t>(impl_->pooled());
}

}  // namespace stuffed::io
