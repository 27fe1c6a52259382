#include "src/cli/evaluation.h"

#include <cstdio>

#include "stuffed/core/error.h"
#include "stuffed/io/provenance.h"

namespace stuffed::cli {

namespace fs = std::filesystem;

void add_output_option(CLI::App& app, EvaluationOptions& options) {
  app.add_option("-o,--output", options.output,
                 "Results, JSON Lines; - is standard output, which cannot be resumed")
      ->required()
      ->type_name("OUT.jsonl")
      ->group("Output");
}

void add_rerun_options(CLI::App& app, EvaluationOptions& options, const std::string& what) {
  app.add_flag("--overwrite", options.overwrite, "Start anew instead of resuming")->group("Output");
  add_save_every(app, options.save_every, "Output");
  app.add_flag("--fail-nonfinite", options.fail_nonfinite,
               "Exit code 6 if " + what + " is not finite")
      ->group("Output");
}

Evaluation open_evaluation(const EvaluationOptions& options, Context& context, Observer* observer) {
  const auto tokenizer = tokenizer_for(options.data, options.model);
  const auto model = context.models.open(options.model);
  const auto rule = open_rule(options.model, *model, observer);
  check_stream_length(options.model, options.data.source.length);
  Evaluation out{.tokenizer = tokenizer,
                 .model = model,
                 .rule = rule,
                 .source = open_source(options.data, tokenizer, *model),
                 .config = describe(options.model, *model),
                 .every_record = {}};
  out.config["data"] = out.source.identity();
  out.every_record = {{"impl", impl_that_runs(options.model, *model)},
                      {"segment_tokens", options.model.segment},
                      {"dtype", out.config["dtype"]},
                      {"state_dtype", out.config["state_dtype"]}};
  return out;
}

io::Results open_results(const EvaluationOptions& options,
                         const Context& context,
                         const Evaluation& evaluation,
                         std::string_view schema,
                         int version) {
  return io::Results::open(
      options.output,
      {.schema = std::string(schema),
       .version = version,
       .config = evaluation.config,
       .provenance = io::provenance(context.command_line, evaluation.model->device())},
      options.overwrite);
}

void finish(const EvaluationOptions& options,
            const io::json& summary,
            const std::string& table,
            std::string_view what) {
  fmt::print(options.output == "-" ? stderr : stdout, "{}", table);
  check(!options.fail_nonfinite || summary.at("finite") == true, Error::Kind::NonFinite,
        "{}: {} (--fail-nonfinite)", options.output, what);
}

void check_not_results(const EvaluationOptions& options,
                       std::string_view flag,
                       const std::string& file) {
  std::error_code ignored;
  const auto place = [&](const std::string& name) {
    return fs::weakly_canonical(fs::absolute(name, ignored), ignored);
  };
  check(file.empty() || options.output == "-" || place(file) != place(options.output),
        Error::Kind::Usage, "{} {}: is the file of -o; the results would be lost, name another",
        flag, file);
}

fs::path arrays_beside(const std::string& output) {
  const fs::path beside = fs::path(output).replace_extension(".safetensors");
  check(beside != output, Error::Kind::Usage,
        "-o {}: the arrays would take this name; end it in .jsonl, or give --arrays", output);
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
