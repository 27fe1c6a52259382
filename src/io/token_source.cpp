// Cuts, skips or joins documents to the length asked for, and checks every id.
#include "stuffed/io/token_source.h"

#include "raw_documents.h"
#include "stuffed/core/error.h"

namespace stuffed::io {

struct TokenSource::Impl {
  SourceOptions options;
  int64_t vocab = 0;
  RawDocuments raw;
  json identity = json::object();
  std::vector<Skipped> skipped;
  int64_t given = 0;
  Document pool;  // packing: what was read and not yet given

  std::optional<Document> read();
  std::optional<Document> next_cut();
  std::optional<Document> next_packed();
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
        Error::Kind::Usage, "--documents {}: only {} --text files are given", options.documents,
        files);
  check(options.prompt.empty() || options.documents <= 1, Error::Kind::Usage,
        "--documents {}: a --prompt is one document", options.documents);
}

}  // namespace

std::optional<Document> TokenSource::Impl::read() {
  std::optional<Document> document = raw();
  for (size_t i = 0; document && i < document->tokens.size(); ++i)
    check(document->tokens[i] < vocab, Error::Kind::Input,
          "{}: token {} is {}, but the model knows ids below {}; is it the model's tokenizer?",
          document->name, i, document->tokens[i], vocab);
  return document;
}

std::optional<Document> TokenSource::Impl::next_cut() {
  while (std::optional<Document> document = read()) {
    const int64_t targets = std::max<int64_t>(0, static_cast<int64_t>(document->tokens.size()) - 1);
    if (targets >= std::max<int64_t>(1, options.length)) {
      if (options.length > 0)
        document->tokens.resize(static_cast<size_t>(options.length) + 1);
      return document;
    }
    check(options.when_short == Short::Skip, Error::Kind::Input,
          "{}: has {} targets to score, but {} are asked for; give --skip-short, --pack, or a "
          "smaller --length",
          document->name, targets, std::max<int64_t>(1, options.length));
    skipped.push_back({document->name, targets});
  }
  return {};
}

std::optional<Document> TokenSource::Impl::next_packed() {
  const auto wanted = static_cast<size_t>(options.length) + 1;
  while (pool.tokens.size() < wanted) {
    const std::optional<Document> more = read();
    if (!more)
      return {};
    pool.boundaries.push_back({static_cast<int64_t>(pool.tokens.size()), more->name});
    pool.tokens.insert(pool.tokens.end(), more->tokens.begin(), more->tokens.end());
  }
  const auto cut = static_cast<std::ptrdiff_t>(wanted);
  Document document{.name = pool.boundaries.front().name,
                    .tokens = {pool.tokens.begin(), pool.tokens.begin() + cut},
                    .boundaries = {}};
  pool.tokens.erase(pool.tokens.begin(), pool.tokens.begin() + cut);
  std::vector<Boundary> left;
  for (const Boundary& boundary : pool.boundaries)
    (boundary.position < cut ? document.boundaries : left).push_back(boundary);
  for (Boundary& boundary : left)
    boundary.position -= cut;
  if (!pool.tokens.empty() && (left.empty() || left.front().position > 0))  // its document goes on
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
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->vocab = vocab;
  json& identity = impl->identity;
  impl->raw = !options.text.empty()     ? text_documents(options, tokenizer, identity)
              : !options.jsonl.empty()  ? jsonl_documents(options, tokenizer, identity)
              : !options.tokens.empty() ? token_documents(options, identity)
                                        : prompt_document(options, tokenizer, identity);
  identity["length_tokens"] = options.length;
  identity["documents"] = options.documents;
  identity["short"] = options.when_short == Short::Skip   ? "skip"
                      : options.when_short == Short::Pack ? "pack"
                                                          : "refuse";
  if (tokenizer)
    identity["tokenizer"] = {{"kind", tokenizer->kind()},
                             {"sha256", tokenizer->hash()},
                             {"bos", tokenizer->bos() ? json(*tokenizer->bos()) : json()}};
  return TokenSource(std::move(impl));
}

std::optional<Document> TokenSource::next() {
  const int64_t wanted = impl_->options.documents;
  if (wanted > 0 && impl_->given == wanted)
    return {};
  std::optional<Document> document =
      impl_->options.when_short == Short::Pack ? impl_->next_packed() : impl_->next_cut();
  check(document.has_value() || impl_->given >= std::max<int64_t>(1, wanted), Error::Kind::Input,
        "there are only {} documents of {} targets, and {} are asked for; give a smaller --length "
        "or --documents",
        impl_->given, std::max<int64_t>(1, impl_->options.length), std::max<int64_t>(1, wanted));
  impl_->given += document.has_value();
  return document;
}

const json& TokenSource::identity() const {
  return impl_->identity;
}
const std::vector<Skipped>& TokenSource::skipped() const {
  return impl_->skipped;
}
int64_t TokenSource::leftover_tokens() const {
  return static_cast<int64_t>(impl_->pool.tokens.size());
}

}  // namespace stuffed::io
