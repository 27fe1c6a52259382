#include "src/cli/document_evaluation.h"

#include <algorithm>
#include <cstdio>

#include "src/cli/print.h"
#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/sidecar.h"

namespace stuffed::cli {

namespace fs = std::filesystem;

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
  app.add_option("--tokens", source.tokens,
                 "safetensors file of token ids [documents, N+1]: N targets per document")
      ->type_name("FILE")
      ->group(group);
  app.add_option("--tokens-key", source.tokens_key, "Name of the tensor in the --tokens file")
      ->capture_default_str()
      ->type_name("NAME")
      ->group(group);
  app.get_option("--field")->needs("--jsonl");
  app.get_option("--tokens-key")->needs("--tokens");
  app.add_option("--prompt", source.prompt, "Repeat this text until --length is reached")
      ->check(CLI::IsMember({"newlines", "capital"}).description(""))
      ->type_name("newlines|capital")
      ->group(group);
  add_size(app, "--length", source.length, "Targets scored per document (default: all)")
      ->group(group);
  add_count(app, "--documents", source.documents,
            source.documents > 0 ? "Documents to read" : "Documents to read (default: all)")
      ->group(group);
  add_part(app, source.part, source.parts, "Read only documents")->group(group);
  app.add_flag("--skip-short", options.skip_short,
               "Skip documents shorter than --length, and list them in the results")
      ->group(group);
  app.add_flag("--pack", options.pack,
               "Concatenate documents until --length is reached; the boundaries are recorded")
      ->group(group);
  app.add_flag("--skip-bad-lines", source.skip_bad_lines,
               "Skip --jsonl lines that cannot be read, and list them in the results; the other "
               "documents keep their numbers")
      ->group(group);
  app.add_flag("--wait", source.wait,
               "Keep waiting when a pipe delivers nothing for 10 s (default: fail)")
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

namespace {

bool can_be_read_twice(const io::SourceOptions& source) {
  std::vector<fs::path> files = source.text;
  files.push_back(source.jsonl);
  std::error_code ignored;
  return std::ranges::all_of(files, [&](const fs::path& file) {
    return file.empty() || (file != "-" && fs::is_regular_file(file, ignored));
  });
}

}  // namespace

SideBySide documents_side_by_side(const DataOptions& data,
                                  const std::shared_ptr<const io::Tokenizer>& tokenizer,
                                  const RecurrentLM& model,
                                  int64_t most) {
  const bool is_one = !data.source.prompt.empty() || data.source.documents == 1 ||
                      (data.source.text.size() == 1 && !data.pack);
  if (is_one)
    return {};
  check(can_be_read_twice(data.source), Error::Kind::Usage,
        "--batch-size auto counts the documents first, but a pipe can be read only once; give a "
        "number");
  DataOptions first = data;
  first.source.part = 0;  // no part has more, and all find the same
  io::TokenSource source = open_source(first, tokenizer, model);
  SideBySide found;
  int64_t run = 0, last = 0;
  while (found.documents < most) {
    const std::optional<io::Document> document = source.next();
    if (!document)
      break;
    const int64_t targets = std::ssize(document->tokens) - 1;
    run = targets == last ? run + 1 : 1;
    last = targets;
    found.documents = std::max(found.documents, run);
    found.targets = std::max(found.targets, targets);
  }
  return found;
}

std::optional<int64_t> recorded_batch_size(const std::string& output, std::string_view schema) {
  std::error_code ignored;
  if (!fs::is_regular_file(output, ignored))
    return {};
  int64_t records = 0;
  const io::JournalEnd end =
      io::read_journal(output, [&](const io::json&, io::LinePlace) { ++records; });
  const bool is_begun = records > 0 || fs::exists(output + ".state", ignored);
  if (end.empty || !is_begun || end.header.schema != schema || !end.header.config.is_object())
    return {};
  const io::json found =
      end.header.config.value("batch_size", io::json(1));  // 1: before there was a choice
  check(found.is_number_integer() && found >= 1, Error::Kind::Input,
        "{}: config.batch_size is {}, which is no batch size", output, found.dump());
  return found.get<int64_t>();
}

void add_output_option(CLI::App& app, EvaluationOptions& options) {
  add_journal(app, "-o,--output", options.output,
              "Results, JSON Lines; - is standard output (which cannot be resumed)")
      ->required()
      ->group("Output");
}

void add_rerun_options(CLI::App& app, EvaluationOptions& options, const std::string& what) {
  app.add_flag("--overwrite", options.overwrite, "Start over instead of resuming")->group("Output");
  add_save_every(app, options.save_every, "Output");
  app.add_flag("--fail-nonfinite", options.fail_nonfinite,
               "Exit code 6 if " + what + " is not finite")
      ->group("Output");
}

int64_t segment_of(const EvaluationOptions& options) {
  const int64_t length = options.data.source.length;
  return length > 0 ? std::min(options.model.segment, length) : options.model.segment;
}

Evaluation open_evaluation(const EvaluationOptions& options,
                           Context& context,
                           Observer* observer,
                           InnerObserver* inner_observer) {
  const auto tokenizer = tokenizer_for(options.data, options.model);
  const auto model = context.models.open(options.model, tokenizer.get());
  const auto rule = open_rule(options.model, *model, observer, inner_observer);
  check_stream_length(options.model, options.data.source.length);
  Evaluation out{.tokenizer = tokenizer,
                 .model = model,
                 .rule = rule,
                 .source = open_source(options.data, tokenizer, *model),
                 .config = describe(options.model, *model),
                 .every_record = {}};
  out.config["data"] = out.source.identity();
  if (const io::SourceOptions& source = options.data.source; source.parts > 1)
    out.config["part"] = fmt::format("{}/{}", source.part, source.parts);
  out.every_record = {{"impl", impl_that_runs(options.model, *model, segment_of(options))},
                      {"segment_tokens", options.model.segment},
                      {"dtype", out.config["dtype"]},
                      {"state_dtype", out.config["state_dtype"]}};
  return out;
}

io::Journal open_journal(const EvaluationOptions& options,
                         const Context& context,
                         const Evaluation& evaluation,
                         const JournalKind& kind) {
  io::check_sidecar(kind.sidecar, options.output);
  io::json provenance = provenance_of(context.command_line, options.model, *evaluation.model);
  provenance.update(evaluation.provenance);
  return io::Journal::open(options.output,
                           {.schema = std::string(kind.schema),
                            .version = kind.version,
                            .config = evaluation.config,
                            .provenance = provenance,
                            .check_record = evaluation.check_record},
                           options.overwrite);
}

namespace {

/// On standard error, where nothing is mixed up with results.
void list_bad_lines(const EvaluationOptions& options, const io::json& summary) {
  const io::json bad = summary.value("bad_lines", io::json::object());
  const io::json lines = bad.value("lines", io::json::array());
  if (lines.empty())
    return;
  cli::print(stderr, "{}: {} could not be read, left out: {}{}\n",
             options.data.source.jsonl.string(), counted(bad.at("count").get<int64_t>(), "line"),
             fmt::join(lines.get<std::vector<int64_t>>(), ", "),
             lines.size() < bad.at("count").get<size_t>() ? ", ..." : "");
}

}  // namespace

void finish(const EvaluationOptions& options,
            const io::json& summary,
            const std::string& table,
            std::string_view what) {
  list_bad_lines(options, summary);
  cli::print(options.output == "-" ? stderr : stdout, "{}", table);
  check(!options.fail_nonfinite || summary.at("finite") == true, Error::Kind::NonFinite,
        "{}: {} (--fail-nonfinite)", options.output, what);
}

void check_outputs(const EvaluationOptions& options,
                   std::string_view flag,
                   const fs::path& sidecar) {
  io::OutputGuard guard = guard_inputs(options.model);
  for (const fs::path& text : options.data.source.text)
    guard.reads("--text", text);
  guard.reads("--jsonl", options.data.source.jsonl);
  guard.reads("--tokens", options.data.source.tokens);
  guard.writes("-o", options.output);
  guard.writes(flag, sidecar);
  const std::string state = options.output + ".state";
  std::error_code ignored;
  if (options.output != "-")
    guard.writes("-o", state);
  check(!options.overwrite || !fs::exists(state, ignored) || io::has_metadata(state, io::kStateKey),
        Error::Kind::Input,
        "{}: a stopped run would keep its state here, but the file holds something else; choose "
        "another -o",
        state);
}

fs::path beside(const std::string& output, std::string_view end) {
  std::string name = output;
  if (name.ends_with(".jsonl"))
    name.resize(name.size() - std::string_view(".jsonl").size());
  return name.append(end);
}

fs::path arrays_beside(const std::string& output) {
  const fs::path beside = io::sidecar_beside(output),
                 older = fs::path(output).replace_extension(".safetensors");
  check(older != output, Error::Kind::Usage,
        "-o {}: the arrays would take this name; give -o a name that ends in .jsonl, or give "
        "--arrays",
        output);
  std::error_code ignored;
  if (older == beside || !fs::is_regular_file(output, ignored))
    return beside;
  // Older versions replaced whatever follows the last dot: 2b in mamba2-1.2b.
  try {
    const io::json config =
        io::read_journal(output, [](const io::json&, io::LinePlace) {}).header.config;
    if (config.is_object() && config.contains("arrays") &&
        config.at("arrays") == name_in_journal(older, output))
      return older;
  } catch (const Error&) {  // no journal, which whoever writes there will say
  }
  return beside;
}

io::json name_in_journal(const fs::path& arrays, const std::string& output) {
  if (arrays.empty())
    return {};
  const fs::path folder = output == "-" ? "." : fs::path(output).parent_path();
  return fs::absolute(arrays).lexically_proximate(fs::absolute(folder / ".")).generic_string();
}

io::json size_or_null(int64_t size) {
  return size > 0 ? io::json(size) : io::json();
}

}  // namespace stuffed::cli
