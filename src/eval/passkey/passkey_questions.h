// The trials of a passkey run as questions of its prompt tree.
#pragma once
#include "src/eval/prompts/ask_prompts.h"
#include "stuffed/eval/passkey.h"

namespace stuffed::eval {

/// Without records; refers to `task`.
Questions passkey_questions(const PasskeyTask& task, int64_t max_new_tokens);

}  // namespace stuffed::eval
