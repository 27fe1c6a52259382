#include "src/cli/tokenize_shards.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "src/cli/options.h"
#include "src/cli/print.h"
#include "stuffed/core/shown.h"
#include "stuffed/io/byte_stream.h"
#include "stuffed/io/output_guard.h"

namespace stuffed::cli {

namespace {

/// Says every ten seconds how far it is.
class Progress {
 public:
  void show(const io::ShardWriter& writer, int64_t tokens) {
    using Seconds = std::chrono::duration<double>;
    tokens_ += tokens;
    const auto now = Clock::now();
    if (now - last_ < std::chrono::seconds(10))
      return;
    last_ = now;
    cli::print(stderr, "{} written, {} left out, {} tokens read, {:.0f} tokens/s\n",
               counted(writer.documents(), "document"), writer.left_out(), tokens_,
               static_cast<double>(tokens_) / Seconds(now - start_).count());
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now(), last_ = start_;
  int64_t tokens_ = 0;
};

/// One source per file, in order.
std::vector<io::SourceOptions> sources_of(const std::vector<std::string>& texts,
                                          const TokenizeShardsOptions& options,
                                          bool wait) {
  io::SourceOptions common;
  common.field = options.field;
  common.when_short = io::Short::Skip;
  common.skip_bad_lines = options.skip_bad_lines;
  common.wait = wait;
  std::vector<io::SourceOptions> sources;
  for (const std::string& file : texts)
    sources.emplace_back(common).text = {file};
  for (const std::string& file : options.jsonl)
    sources.emplace_back(common).jsonl = file;
  return sources;
}

/// What decides a source's documents. Errors  Input for a file that is missing or not understood
io::json identity_of(const io::SourceOptions& source,
                     const std::shared_ptr<const io::Tokenizer>& how) {
  return io::TokenSource::open(source, how, how->vocab_size()).identity();
}

bool has_pipe(const std::vector<io::SourceOptions>& sources) {
  return std::ranges::any_of(sources, [](const io::SourceOptions& source) {
    return io::is_pipe(source.text.empty() ? source.jsonl : source.text.front());
  });
}

/// Whether the folder holds the very shards that these sources make. What went through a pipe is
/// not known any more.
bool is_done(const io::ShardOptions& how,
             const TokenizeShardsOptions& options,
             const std::vector<io::SourceOptions>& sources,
             const std::shared_ptr<const io::Tokenizer>& tokenizer) {
  if (options.overwrite || !io::holds_shards(options.folder) || has_pipe(sources))
    return false;
  io::json identities = io::json::array();
  for (const io::SourceOptions& source : sources)
    identities.push_back(identity_of(source, tokenizer));
  return io::TokenShards::open(options.folder).made_from() == io::shards_origin(how, identities);
}

/// Returns what decided its documents.
io::json add_documents(const io::SourceOptions& where,
                       const std::shared_ptr<const io::Tokenizer>& tokenizer,
                       io::ShardWriter& writer,
                       Progress& progress) {
  io::TokenSource source = io::TokenSource::open(where, tokenizer, tokenizer->vocab_size());
  while (const auto document = source.next()) {
    writer.add(document->tokens);
    progress.show(writer, static_cast<int64_t>(document->tokens.size()));
  }
  for (const io::BadLine& line : source.bad_lines())
    cli::print(stderr, "left out: {}\n", line.reason);
  return source.identity();
}

void check_places(const std::vector<std::string>& texts, const TokenizeShardsOptions& options) {
  io::OutputGuard guard;
  for (const std::string& file : texts)
    guard.reads("FILE", file);
  for (const std::string& file : options.jsonl)
    guard.reads("--jsonl", file);
  guard.writes("--shards", std::filesystem::path(options.folder) / io::kShardsFile);
}

}  // namespace

void add_shard_options(CLI::App& app, TokenizeShardsOptions& options) {
  const char* const group = "Shards (what train reads)";
  CLI::Option* const shards =
      app.add_option("--shards", options.folder,
                     "Write the documents as shards into this folder, with the tokenizer");
  shards->type_name("DIR")->group(group);
  app.add_option("--jsonl", options.jsonl,
                 "JSON Lines files, each line a document; gzip and zstd are read too")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--field", options.field,
                 "Key of the text in a JSONL line; a.b descends into objects, and into JSON held "
                 "in strings")
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
  add_size(app, "--min-document", options.shards.shortest_tokens,
           "Leave out documents with fewer tokens")
      ->group(group);
  add_size(app, "--shard-size", options.shards.shard_tokens,
           "Begin a new shard once one has this many tokens")
      ->group(group);
  app.add_flag("--no-eos", options.no_eos,
               "Do not append the tokenizer's end-of-text token, if it has one, to documents")
      ->group(group);
  app.add_flag("--skip-bad-lines", options.skip_bad_lines,
               "Leave out lines of --jsonl that cannot be read")
      ->group(group);
  app.add_flag("--overwrite", options.overwrite, "Replace an existing set of shards")->group(group);
  for (const char* const option : {"--jsonl", "--field", "--min-document", "--shard-size",
                                   "--no-eos", "--skip-bad-lines", "--overwrite"})
    app.get_option(option)->needs(shards);
}

void tokenize_to_shards(const std::vector<std::string>& texts,
                        const std::shared_ptr<const io::Tokenizer>& tokenizer,
                        const TokenizeShardsOptions& options,
                        bool wait) {
  check_places(texts, options);
  io::ShardOptions how = options.shards;
  how.ends_documents = !options.no_eos;
  const std::vector<io::SourceOptions> sources = sources_of(texts, options, wait);
  if (is_done(how, options, sources, tokenizer))
    return cli::print(stdout, "{}: was complete already\n", options.folder);
  io::ShardWriter writer(options.folder, tokenizer, how, options.overwrite);
  Progress progress;
  io::json identities = io::json::array();
  for (const io::SourceOptions& source : sources)
    identities.push_back(add_documents(source, tokenizer, writer, progress));
  writer.finish(has_pipe(sources) ? io::json() : identities);
  cli::print(stdout, "{}: {}, {} tokens; {} left out, shorter than {}\n", options.folder,
             counted(writer.documents(), "document"), writer.tokens(),
             counted(writer.left_out(), "document"), counted(how.shortest_tokens, "token"));
}

}  // namespace stuffed::cli
