#include "src/cli/data_options.h"

#include "src/cli/wiring.h"
#include "stuffed/core/error.h"

namespace stuffed::cli {

void add_data_options(CLI::App& app, DataOptions& options) {
  const char* const group = "Data (exactly one of --text, --jsonl, --tokens, --prompt)";
  io::SourceOptions& source = options.source;
  app.add_option("--text", source.text,
                 "UTF-8 text; each file is one document. - is standard input; pipes, gzip and zstd "
                 "are read too")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--jsonl", source.jsonl,
                 "JSON Lines; each line is one document. - is standard input; pipes, gzip and zstd "
                 "are read too")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--field", source.field,
                 "Key of the text in a JSONL line; a.b descends into objects, and into JSON held "
                 "in strings")
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
  app.add_option("--tokens", source.tokens, "safetensors with token ids [documents, N+1]")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--tokens-key", source.tokens_key, "Name of the tensor")
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
  app.add_option("--prompt", source.prompt, "Repeat this text until --length is reached")
      ->check(CLI::IsMember({"newlines", "capital"}).description(""))
      ->type_name("newlines|capital")
      ->group(group);
  add_size(app, "--length", source.length, "Targets scored per document (default: all)")
      ->group(group);
  add_count(app, "--documents", source.documents,
            source.documents > 0 ? "Documents to read" : "Documents to read (default: all)")
      ->group(group);
  app.add_flag("--skip-short", options.skip_short,
               "Skip documents shorter than --length, and list them in the results")
      ->group(group);
  app.add_flag("--pack", options.pack,
               "Concatenate documents until --length is reached; the boundaries are recorded")
      ->group(group);
  app.add_flag("--skip-bad-lines", source.skip_bad_lines,
               "Skip lines of --jsonl that cannot be read, and list them in the results; later "
               "documents keep their numbers")
      ->group(group);
  app.add_flag("--wait", source.wait,
               "Keep waiting for a pipe that gives nothing for 10 s (default: an error)")
      ->group(group);
}

std::shared_ptr<const io::Tokenizer> tokenizer_for(const DataOptions& data,
                                                   const ModelOptions& model) {
  check(!(data.skip_short && data.pack), Error::Kind::Usage,
        "--skip-short and --pack exclude each other");
  return data.source.tokens.empty() || !model.tokenizer.empty() ? open_tokenizer(model) : nullptr;
}

io::TokenSource open_source(const DataOptions& data,
                            const std::shared_ptr<const io::Tokenizer>& tokenizer,
                            const RecurrentLM& model) {
  if (tokenizer)
    check_vocabulary(*tokenizer, model);
  io::SourceOptions where = data.source;
  where.when_short = data.pack         ? io::Short::Pack
                     : data.skip_short ? io::Short::Skip
                                       : io::Short::Refuse;
  return io::TokenSource::open(where, tokenizer, model.config().vocab);
}

}  // namespace stuffed::cli
