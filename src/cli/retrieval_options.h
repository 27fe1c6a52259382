// The options of `stuffed retrieval`, which a sweep's estimate reads, too.
#pragma once
#include <string>
#include <vector>

#include "src/cli/options.h"
#include "stuffed/eval/retrieval.h"

namespace stuffed::cli {

/// As given; 0 and "" stand for the task's own.
struct RetrievalArguments {
  std::string task, grid = "shared", text, format;
  std::vector<std::string> jsonl;
  int64_t depths = 0, trials = 0, queries = 0, updates = -1;
  eval::RetrievalOptions options;  // the others
  /// Options that not every task has, by what such tasks' names begin with; the app owns them.
  std::vector<std::pair<std::string, const CLI::Option*>> of_tasks = {};
};

void add_retrieval_arguments(CLI::App& app, RetrievalArguments& arguments);

/// Errors  Usage for options that the task does not have, or lacks
eval::RetrievalOptions task_of(const RetrievalArguments& arguments, uint64_t seed);

}  // namespace stuffed::cli
