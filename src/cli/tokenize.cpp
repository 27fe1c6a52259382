// `stuffed tokenize`: text to token ids, as JSON or as a token file for --tokens, and back.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <optional>
#include <span>

#include <nlohmann/json.hpp>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"
#include "src/cli/tokenize_shards.h"
#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/byte_stream.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/io/text_encoder.h"
#include "stuffed/io/token_file.h"
#include "stuffed/io/tokenizer.h"

namespace stuffed::cli {

namespace {

struct TokenizeOptions {
  std::string tokenizer, output;
  std::vector<std::string> files;
  bool no_bos = false, literal_special = false, decode = false, time = false, wait = false;
  TokenizeShardsOptions shards;
};

constexpr const char* kExamples =
    "  stuffed tokenize --tokenizer bytes README.md\n"
    "  stuffed tokenize --tokenizer tokenizer.json book.txt -o book.safetensors\n"
    "  stuffed tokenize --tokenizer tokenizer.json book.txt | stuffed tokenize --tokenizer "
    "tokenizer.json --decode\n"
    "  stuffed tokenize --tokenizer bytes --shards out/shards --min-document 4K --jsonl "
    "books.jsonl.zst\n";

using Sink = std::function<void(std::span<const int32_t>)>;

/// Hands the ids of one text to `sink` as they are found: neither text nor ids pile up.
void encode(const io::Tokenizer& tokenizer,
            const std::string& path,
            const TokenizeOptions& options,
            const Sink& sink) {
  using Clock = std::chrono::steady_clock;
  constexpr size_t kAtOnce = size_t{1} << 16;
  io::ByteStream stream = io::ByteStream::open(path, {.wait = options.wait});
  io::TextEncoder encoder(tokenizer, path, tokenizer.needs_utf8());
  std::vector<int32_t> ids;
  size_t bytes = 0, tokens = 0;
  Clock::duration taken{};
  const auto timed = [&](const auto& step) {
    const auto begin = Clock::now();
    step();
    taken += Clock::now() - begin;
  };
  const auto hand_over = [&] {
    tokens += ids.size();
    sink(ids);
    ids.clear();
  };
  for (std::string_view text; !(text = stream.peek()).empty(); stream.take(text.size())) {
    timed([&] { encoder.add(text, ids); });
    bytes += text.size();
    io::check_document_size(stream, tokens + ids.size());
    if (ids.size() >= kAtOnce)
      hand_over();
  }
  timed([&] { encoder.finish(ids); });
  hand_over();
  if (options.time)
    cli::print(stderr, "{}: {} bytes, {} tokens, {:.6f} s\n", path, bytes, tokens,
               std::chrono::duration<double>(taken).count());
}

/// Prints ids as one JSON array. The first million waits for the end or for more, so that a text
/// which is refused early prints nothing.
class IdPrinter {
 public:
  void add(std::span<const int32_t> ids) {
    held_.insert(held_.end(), ids.begin(), ids.end());
    if (held_.size() >= kHeld)
      print_held();
  }
  void finish() {
    print_held();
    std::fputs("]\n", stdout);
  }

 private:
  static constexpr size_t kHeld = 1'000'000, kAtOnce = size_t{1} << 16;

  void print_held() {
    if (!has_begun_)
      std::fputc('[', stdout);
    for (size_t begin = 0; begin < held_.size(); begin += kAtOnce) {
      const auto some = std::span(held_).subspan(begin, std::min(kAtOnce, held_.size() - begin));
      const bool is_first = !has_begun_ && begin == 0;
      const std::string text = fmt::format("{}{}", is_first ? "" : ",", fmt::join(some, ","));
      std::fwrite(text.data(), 1, text.size(), stdout);
    }
    has_begun_ = true;
    held_.clear();
  }

  std::vector<int32_t> held_;
  bool has_begun_ = false;
};

void print_ids(const io::Tokenizer& tokenizer,
               const std::string& file,
               const TokenizeOptions& options) {
  IdPrinter printer;
  encode(tokenizer, file, options, [&](std::span<const int32_t> ids) { printer.add(ids); });
  printer.finish();
}

void write_ids(const io::Tokenizer& tokenizer, const TokenizeOptions& options) {
  io::TokenFileWriter writer(
      options.output, {{"tokenizer", std::string(tokenizer.kind())},
                       {"tokenizer_sha256", tokenizer.hash()},
                       {"bos", tokenizer.bos() ? std::to_string(*tokenizer.bos()) : "none"}});
  std::optional<int64_t> first;
  for (const std::string& file : options.files) {
    encode(tokenizer, file, options, [&](std::span<const int32_t> ids) { writer.add(ids); });
    const int64_t length = writer.end_document();
    check(length == first.value_or(length), Error::Kind::Usage,
          "-o: the documents of one token file must have equal lengths, but {} has {} tokens and "
          "{} has {}; write one file per document",
          options.files.front(), first.value_or(0), file, length);
    first = length;
  }
  writer.commit();
}

void print_text(const io::Tokenizer& tokenizer, const std::string& path, bool wait) {
  const auto ids = nlohmann::json::parse(io::read_stream(path, {.wait = wait}), nullptr,
                                         /*allow_exceptions=*/false);
  const auto is_id = [](const auto& id) {
    return id.is_number_unsigned() && id.template get<uint64_t>() < (uint64_t{1} << 31);
  };
  check(ids.is_array() && std::all_of(ids.begin(), ids.end(), is_id), Error::Kind::Input,
        "{}: is not a single JSON array of token ids, such as [510,1509]", path);
  const auto tokens = ids.get<std::vector<int32_t>>();
  const auto unknown = std::ranges::find_if(
      tokens, [&](int32_t id) { return int64_t{id} >= tokenizer.vocab_size(); });
  check(unknown == tokens.end(), Error::Kind::Input,
        "{}: token id {} is not in the tokenizer's vocabulary of {}; was it made with another "
        "tokenizer?",
        path, unknown == tokens.end() ? 0 : *unknown, tokenizer.vocab_size());
  const std::string text = tokenizer.decode(tokens);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

/// Errors  Usage, Input or Output if the tokens would take the place of something else
void check_output(const TokenizeOptions& options) {
  io::OutputGuard guard;
  if (options.tokenizer != "bytes")
    guard.reads("--tokenizer", options.tokenizer);
  for (const std::string& file : options.files)
    guard.reads("FILE", file);
  guard.writes("-o", options.output);
  io::make_folder_of(options.output);
  io::check_place(options.output, [](const io::TensorFile& file) {
    return file.has("tokens") && file.metadata().contains("tokenizer_sha256");
  });
}

void run_tokenize(TokenizeOptions options) {
  check_output(options);
  if (options.files.empty() && options.shards.jsonl.empty())
    options.files = {"-"};
  const auto tokenizer = io::load_tokenizer(
      options.tokenizer, {.add_bos = !options.no_bos, .parse_special = !options.literal_special});
  check(std::ranges::count(options.files, "-") <= 1, Error::Kind::Usage,
        "tokenize: standard input (-) can be read only once");
  if (!options.shards.folder.empty())
    return tokenize_to_shards(options.files, tokenizer, options.shards, options.wait);
  if (!options.output.empty())
    return write_ids(*tokenizer, options);
  for (const std::string& file : options.files) {
    if (options.decode)
      print_text(*tokenizer, file, options.wait);
    else
      print_ids(*tokenizer, file, options);
  }
}

}  // namespace

void add_tokenize(CLI::App& root, Commands& commands) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* app = add_subcommand(root, "tokenize",
                                 "Turn text into token ids: one line with a JSON array per FILE, "
                                 "or a token file that other commands take as --tokens",
                                 kExamples);
  add_checkpoint(*app, "--tokenizer", options->tokenizer,
                 "tokenizer.json, tokenizer.model, a World vocabulary, a folder or repository with "
                 "one of them, or 'bytes'")
      ->required()
      ->type_name("PATH|NAME|bytes");
  app->add_option("FILE", options->files,
                  "Text files (UTF-8; any bytes for World and bytes tokenizers); each is one "
                  "document. - is standard input (default: -); pipes, gzip and zstd are read too")
      ->type_name("");
  CLI::Option* output = app->add_option(
      "-o,--output", options->output,
      "Write a safetensors file with `tokens` [documents, N] i64 instead of printing");
  output->type_name("OUT.safetensors");
  app->add_flag("--no-bos", options->no_bos,
                "Do not prepend the tokenizer's beginning-of-text token");
  app->add_flag(
      "--literal-special", options->literal_special,
      "Encode special tokens written in the text, such as <|endoftext|>, as ordinary text");
  CLI::Option* decode =
      app->add_flag("--decode", options->decode,
                    "Decode instead: each FILE is a JSON array of ids, whose text is printed")
          ->excludes(output);
  add_shard_options(*app, options->shards);
  app->get_option("--shards")->excludes(output)->excludes(decode);
  app->add_flag("--wait", options->wait,
                "Keep waiting when a pipe delivers nothing for 10 s (default: fail)");
  app->add_flag("--time", options->time, "Report the seconds spent encoding, on standard error");
  commands.push_back({.app = app, .run = [options](Context&) { run_tokenize(*options); }});
}

}  // namespace stuffed::cli
