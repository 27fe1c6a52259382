// Which text a command reads: the options that every command over documents shares.
#pragma once
#include <memory>

#include "src/cli/options.h"
#include "stuffed/io/token_source.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::cli {

struct DataOptions {
  io::SourceOptions source;  // all but when_short
  bool skip_short = false, pack = false;
};

void add_data_options(CLI::App& app, DataOptions& options);

/// The model's tokenizer, or null where none is needed: for --tokens without --tokenizer.
/// Errors  Usage for options that exclude each other; Input if there is no tokenizer
std::shared_ptr<const io::Tokenizer> tokenizer_for(const DataOptions& data,
                                                   const ModelOptions& model);

/// Errors  Input if the tokenizer belongs to another model; as TokenSource::open
io::TokenSource open_source(const DataOptions& data,
                            const std::shared_ptr<const io::Tokenizer>& tokenizer,
                            const RecurrentLM& model);

}  // namespace stuffed::cli
