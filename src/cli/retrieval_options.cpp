#include "src/cli/retrieval_options.h"

#include <algorithm>
#include <map>

#include "stuffed/core/error.h"

namespace stuffed::cli {

namespace {

using eval::RetrievalKind;

const std::vector<std::pair<std::string, RetrievalKind>> kTasks = {
    {"niah-single", RetrievalKind::NiahSingle},
    {"niah-multikey", RetrievalKind::NiahMultikey},
    {"niah-multivalue", RetrievalKind::NiahMultivalue},
    {"niah-multiquery", RetrievalKind::NiahMultiquery},
    {"mqar", RetrievalKind::Mqar},
    {"mqar-forget", RetrievalKind::MqarForget},
    {"jsonl", RetrievalKind::Jsonl}};

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const auto& [name, kind] : kTasks)
    names.push_back(name);
  return names;
}

/// An option of tasks whose names begin with `prefix`.
void keep(RetrievalArguments& arguments,
          const char* prefix,
          const char* group,
          CLI::Option* option) {
  option->group(group);
  arguments.of_tasks.emplace_back(prefix, option);
}

void add_needle_arguments(CLI::App& app, RetrievalArguments& arguments) {
  const std::vector<std::string> kinds = {"words", "numbers", "uuids"};
  CLI::Option* const options[] = {
      app.add_option("--text", arguments.text,
                     "Haystack, cut into sentences; never repeated (default: lines of filler)")
          ->type_name("FILE"),
      add_choice(app, "--keys", arguments.options.keys, kinds, "What keys are"),
      add_choice(app, "--values", arguments.options.values, kinds, "What values are"),
      add_count(app, "--needles", arguments.options.needles,
                "Needles of the tasks with several: keys, or values of the key")};
  for (CLI::Option* option : options)
    keep(arguments, "niah-", "Needles (niah-*)", option);
}

void add_recall_arguments(CLI::App& app, RetrievalArguments& arguments) {
  io::RecallOptions& recall = arguments.options.recall;
  const char* const group = "Associative recall (mqar, mqar-forget)";
  CLI::Option* const options[] = {
      add_count(app, "--pairs", recall.pairs, "Pairs of a key and its value"),
      add_count(app, "--queries", arguments.queries, "Keys asked, at most --pairs (default: all)"),
      add_count(app, "--gap", recall.gap, "Tokens of filler between an answer and the next query",
                0),
      add_size(app, "--vocabulary", recall.vocabulary,
               "Token ids used: 0 is filler, the rest half keys, half values", 4)};
  for (CLI::Option* option : options)
    keep(arguments, "mqar", group, option);
  keep(arguments, "mqar-forget", group,
       add_count(app, "--updates", arguments.updates,
                 "Keys that get a new value, which counts (default: half of --pairs; mqar-forget "
                 "only)",
                 0));
}

void add_file_arguments(CLI::App& app, RetrievalArguments& arguments) {
  CLI::Option* const options[] = {
      app.add_option("--jsonl", arguments.jsonl, "Samples, one a line; may be repeated")
          ->type_name("FILE"),
      app.add_option("--format", arguments.format,
                     "ruler: input, answer_prefix if there is one, outputs, length; babilong: "
                     "input, question, target; plain: prompt, answers, length")
          ->check(CLI::IsMember({"ruler", "babilong", "plain"}).description(""))
          ->type_name("ruler|babilong|plain")};
  for (CLI::Option* option : options)
    keep(arguments, "jsonl", "Questions of a file (jsonl)", option);
}

/// Errors  Usage for what belongs to another task, or is lacking
void check_task(const RetrievalArguments& arguments, RetrievalKind kind) {
  for (const auto& [prefix, option] : arguments.of_tasks)
    check(option->count() == 0 || arguments.task.starts_with(prefix), Error::Kind::Usage,
          "{}: --task {} has no such option", option->get_name(), arguments.task);
  const bool is_jsonl = kind == RetrievalKind::Jsonl;
  check(!is_jsonl || (!arguments.jsonl.empty() && !arguments.format.empty()), Error::Kind::Usage,
        "--task jsonl: give --jsonl FILE and --format ruler, babilong or plain");
  check(is_jsonl || !arguments.options.lengths_tokens.empty(), Error::Kind::Usage,
        "--task {}: give --lengths, such as 1K..64K:1K", arguments.task);
}

}  // namespace

void add_retrieval_arguments(CLI::App& app, RetrievalArguments& arguments) {
  const char* const group = "Retrieval";
  eval::RetrievalOptions& task = arguments.options;
  app.add_option("--task", arguments.task, "What is asked")
      ->required()
      ->check(CLI::IsMember(task_names()).description(""))
      ->type_name("NAME")
      ->description(fmt::format("What is asked: {}", fmt::join(task_names(), ", ")))
      ->group(group);
  add_sizes(app, "--lengths", task.lengths_tokens,
            "Lengths of prompt and answer together, such as 1K..64K:1K; of jsonl those taken "
            "(default: all)")
      ->group(group);
  add_count(app, "--depths", arguments.depths,
            "Needle positions per length (default: 10; of jsonl 1)")
      ->group(group);
  add_count(app, "--trials", arguments.trials,
            "Samples per length and needle position (default: 20; of jsonl all)")
      ->group(group);
  add_part(app, task.part, task.parts, "Of each length and depth trials")->group(group);
  add_choice(app, "--grid", arguments.grid, {"shared", "per-length"},
             "shared: lengths share needles, so one stream answers many; per-length: every sample "
             "has its own")
      ->group(group);
  add_count(app, "--max-new-tokens", task.max_new_tokens,
            "Tokens decoded greedily; of mqar none, whose answers are one token each")
      ->group(group);
  add_needle_arguments(app, arguments);
  add_recall_arguments(app, arguments);
  add_file_arguments(app, arguments);
}

eval::RetrievalOptions task_of(const RetrievalArguments& arguments, uint64_t seed) {
  eval::RetrievalOptions task = arguments.options;
  const auto found =
      std::ranges::find(kTasks, arguments.task, &std::pair<std::string, RetrievalKind>::first);
  task.kind = found->second;
  check_task(arguments, task.kind);
  const bool is_jsonl = task.kind == RetrievalKind::Jsonl;
  task.depths = arguments.depths > 0 ? arguments.depths : is_jsonl ? 1 : 10;
  task.trials = arguments.trials > 0 ? arguments.trials : is_jsonl ? 0 : 20;
  task.grid = arguments.grid == "shared" ? eval::PasskeyGrid::Shared : eval::PasskeyGrid::PerLength;
  task.seed = seed;
  task.text = arguments.text;
  task.jsonl.assign(arguments.jsonl.begin(), arguments.jsonl.end());
  task.format = arguments.format;
  task.recall.queries = arguments.queries > 0 ? arguments.queries : task.recall.pairs;
  task.recall.updates = task.kind != RetrievalKind::MqarForget ? 0
                        : arguments.updates >= 0               ? arguments.updates
                                                               : task.recall.pairs / 2;
  return task;
}

}  // namespace stuffed::cli
