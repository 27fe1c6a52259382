#include "src/cli/sweep/estimate.h"

#include <algorithm>

#include "src/cli/document_evaluation.h"
#include "src/cli/retrieval_options.h"
#include "stuffed/core/dtype.h"
#include "stuffed/eval/passkey.h"
#include "stuffed/eval/run_size.h"
#include "stuffed/eval/what_fits.h"
#include "stuffed/models/registry.h"

namespace stuffed::cli {

namespace {

constexpr int64_t kProgramBytes = int64_t{300} << 20;  // LibTorch and its libraries

/// The options that decide how much there is to do, of all the commands that evaluate a model.
struct CellOptions {
  ModelOptions model;
  DataOptions data;
  int64_t batch_size = 0;  // 0: the command's own
  eval::RetentionOptions retention;
  eval::PasskeyOptions passkey;
  std::string protocol = "ours", grid;
  int64_t max_new_tokens = 0, state_memory_bytes = int64_t{4} << 30;
};

/// Those that a command has not are not among its arguments, which were checked before.
CellOptions read_options(const std::string& command, std::vector<std::string> arguments) {
  CellOptions options;
  options.data.source.documents = command == "state-stats" ? 1 : 0;
  CLI::App app;
  app.allow_extras();
  add_model_options(app, options.model);
  add_data_options(app, options.data);
  add_batch_size(app, options.batch_size, "");
  add_sizes(app, "--at", options.retention.read_tokens, "");
  add_count(app, "--points", options.retention.points, "");
  add_sizes(app, "--lengths", options.passkey.lengths_tokens, "");
  add_count(app, "--depths", options.passkey.depths, "");
  add_count(app, "--trials", options.passkey.trials, "");
  add_choice(app, "--protocol", options.protocol, {"ours", "paper-code", "paper-text"}, "");
  app.add_option("--grid", options.grid);
  app.add_flag("--use-bos", options.passkey.use_bos);
  app.add_flag("--add-prefix", options.passkey.add_prefix);
  add_count(app, "--digits", options.passkey.digits, "");
  add_count(app, "--max-new-tokens", options.max_new_tokens, "");
  add_size(app, "--state-memory", options.state_memory_bytes, "");
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  app.parse(std::move(arguments));
  if (command == "retention" && !options.grid.empty())
    options.retention.suffixes = parse_sizes(options.grid, "--grid");
  return options;
}

/// The model without its weights, and without its hash.
std::unique_ptr<RecurrentLM> outline(const ModelOptions& options) {
  return unloaded_model(OpenCheckpoint::open(options.model, reading_of(options)).checkpoint);
}

Estimate estimate_of(const ModelOptions& options,
                     const RecurrentLM& model,
                     int64_t tokens,
                     int64_t rows,
                     int64_t states) {
  const ModelConfig& config = model.config();
  const at::ScalarType dtype = parse_dtype(options.dtype);
  const int64_t weights = config.parameters * static_cast<int64_t>(c10::elementSize(dtype));
  const eval::Feeding feeding = {
      .rows = rows,
      .segment_tokens = std::min(options.segment, std::max<int64_t>(1, tokens)),
      .beside_bytes = states * model.initial_state(1).bytes()};
  return {.tokens = tokens,
          .memory_bytes = kProgramBytes + weights + feeding_bytes(config, dtype, feeding),
          .flops = 2.0 * static_cast<double>(config.parameters) * static_cast<double>(tokens)};
}

/// What decides the documents of a source.
std::string name_of_source(const CellOptions& options) {
  const io::SourceOptions& source = options.data.source;
  std::string name = fmt::format(
      "{} {} {} {} {} {} {} {} {} {} {} {} {} {}", source.jsonl.string(), source.field,
      source.tokens.string(), source.tokens_key, source.prompt, source.length, source.documents,
      source.part, source.parts, options.data.skip_short, options.data.pack, source.skip_bad_lines,
      options.model.tokenizer, options.model.model);
  for (const auto& text : source.text)
    name += "\n" + text.string();
  return name;
}

DocumentCount count_documents(const CellOptions& options, const RecurrentLM& model) {
  DocumentCount count;
  io::TokenSource source =
      open_source(options.data, tokenizer_for(options.data, options.model), model);
  while (const std::optional<io::Document> document = source.next()) {
    const auto targets = static_cast<int64_t>(document->tokens.size()) - 1;
    ++count.documents;
    count.targets += targets;
    count.longest = std::max(count.longest, targets);
  }
  return count;
}

Estimate estimate_of_tree(const CellOptions& options,
                          const RecurrentLM& model,
                          const eval::PromptTree& tree,
                          int64_t tokens) {
  const int64_t batch = options.batch_size > 0 ? options.batch_size : 64;
  const int64_t state_bytes = model.initial_state(1).bytes();
  const eval::TreePlan plan =
      eval::plan_tree(tree, {.states = options.state_memory_bytes / state_bytes,
                             .batch = batch,
                             .segment_tokens = options.model.segment});
  return estimate_of(options.model, model, tokens, std::min(batch, std::ssize(tree.prompts())),
                     plan.peak_states);
}

Estimate estimate_passkey(CellOptions options, const RecurrentLM& model) {
  using eval::PasskeyGrid;
  using eval::PasskeyProtocol;
  eval::PasskeyOptions& task = options.passkey;
  task.protocol = options.protocol == "ours"         ? PasskeyProtocol::Ours
                  : options.protocol == "paper-code" ? PasskeyProtocol::PaperCode
                                                     : PasskeyProtocol::PaperText;
  const bool is_shared =
      options.grid.empty() ? task.protocol == PasskeyProtocol::Ours : options.grid == "shared";
  task.grid = is_shared ? PasskeyGrid::Shared : PasskeyGrid::PerLength;
  task.seed = options.model.seed;
  task.part = options.data.source.part;
  task.parts = options.data.source.parts;
  const int64_t new_tokens = options.max_new_tokens > 0                    ? options.max_new_tokens
                             : task.protocol == PasskeyProtocol::PaperCode ? 5
                                                                           : 8;
  const eval::PasskeyTask made = eval::make_passkey(*open_tokenizer(options.model), task);
  return estimate_of_tree(options, model, made.tree, made.tokens_to_feed(new_tokens));
}

Estimate estimate_retrieval(std::vector<std::string> arguments) {
  CellOptions options;
  RetrievalArguments given;
  CLI::App app;
  app.allow_extras();
  add_model_options(app, options.model);
  add_retrieval_arguments(app, given);
  add_batch_size(app, options.batch_size, "");
  add_size(app, "--state-memory", options.state_memory_bytes, "");
  std::reverse(arguments.begin(), arguments.end());  // as CLI11 wants them
  app.parse(std::move(arguments));
  const eval::RetrievalOptions task = task_of(given, options.model.seed);
  const bool has_text = !eval::is_recall(task.kind);
  const auto tokenizer = has_text ? open_tokenizer(options.model) : nullptr;
  const eval::RetrievalTask made = eval::make_retrieval(tokenizer.get(), task);
  const auto model = outline(options.model);
  return estimate_of_tree(options, *model, made.tree,
                          made.tokens_to_feed(has_text ? task.max_new_tokens : 0));
}

}  // namespace

std::optional<Estimate> Estimates::of(const std::string& command,
                                      const std::vector<std::string>& arguments) {
  if (command == "retrieval")
    return estimate_retrieval(arguments);
  const bool is_passkey = command == "passkey", is_retention = command == "retention";
  if (!is_passkey && !is_retention && command != "ppl-by-length" && command != "state-stats")
    return {};
  const CellOptions options = read_options(command, arguments);
  const auto model = outline(options.model);
  if (is_passkey)
    return estimate_passkey(options, *model);
  const auto [at, is_new] = counted_.emplace(name_of_source(options), DocumentCount{});
  if (is_new)
    at->second = count_documents(options, *model);
  const DocumentCount& count = at->second;
  if (is_retention) {
    const int64_t rows = options.retention.suffixes.empty()
                             ? options.retention.points
                             : std::ssize(options.retention.suffixes);
    return estimate_of(options.model, *model,
                       count.documents * eval::tokens_to_feed(options.retention, count.longest), 1,
                       2 * (rows + 1));
  }
  const int64_t rows = std::max<int64_t>(1, options.batch_size);
  return estimate_of(options.model, *model, count.targets, rows, 2 * rows);
}

}  // namespace stuffed::cli
