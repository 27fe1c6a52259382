// `stuffed tokenize --shards`: documents to shards that `stuffed train` reads.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "stuffed/io/shards.h"
#include "stuffed/io/token_source.h"

namespace stuffed::cli {

struct TokenizeShardsOptions {
  std::string folder;  // empty: no shards are asked for
  std::vector<std::string> jsonl;
  std::string field = "text";
  io::ShardOptions shards;
  bool no_eos = false, skip_bad_lines = false, overwrite = false;
};

void add_shard_options(CLI::App& app, TokenizeShardsOptions& options);

/// Each of `texts` is a document, and each line of the JSON Lines files. Says what was written.
/// Errors  as TokenSource and ShardWriter
void tokenize_to_shards(const std::vector<std::string>& texts,
                        const std::shared_ptr<const io::Tokenizer>& tokenizer,
                        const TokenizeShardsOptions& options,
                        bool wait);

}  // namespace stuffed::cli
