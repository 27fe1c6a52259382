// How far a run over a prompt tree is.
#pragma once
#include <cstdint>
#include <functional>

namespace stuffed::eval {

/// Tokens are those of the prompts, fed once where they are shared; what a journal held already does
/// not count.
struct PromptProgress {
  int64_t prompts_done = 0, prompts = 0;
  int64_t tokens_done = 0, tokens = 0;
};
using OnPromptProgress = std::function<void(const PromptProgress&)>;

}  // namespace stuffed::eval
