// The trials of a retrieval run as questions of its prompt tree.
#pragma once
#include "src/eval/prompts/ask_prompts.h"
#include "stuffed/eval/retrieval.h"

namespace stuffed::eval {

/// Without records; refers to `task`.
Questions retrieval_questions(const RetrievalTask& task, int64_t max_new_tokens);

/// What a record of a trial says. `record` was checked.
TrialScore score_of_retrieval(const io::json& record);

}  // namespace stuffed::eval
