#include "stuffed/eval/prompt_runs.h"

#include <algorithm>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

constexpr int32_t kNothing = -1;
constexpr int64_t kCopies = 4;  // first, two that must agree, last

/// Walks a prompt; `offset` tokens into copy `copy` of run `run`.
struct Cursor {
  const TokenBlocks& blocks;
  const Prompt& prompt;
  size_t run = 0;
  int64_t copy = 0;
  int64_t offset = 0;

  bool at_end() const { return run == prompt.size(); }
  int32_t block() const { return prompt[run].block; }
  int64_t copies_left() const { return prompt[run].repeats - copy; }
  std::span<const int32_t> rest() const { return blocks[block()].subspan(size_t(offset)); }

  void skip_copies(int64_t count) {
    copy += count;
    if (copy == prompt[run].repeats) {
      ++run;
      copy = 0;
    }
  }
  void skip_tokens(int64_t count) {  // within this copy
    offset += count;
    if (offset == int64_t(blocks[block()].size())) {
      offset = 0;
      skip_copies(1);
    }
  }
};

void append(Prompt& prompt, int32_t block, int64_t repeats) {
  if (block == kNothing || repeats == 0)
    return;
  if (!prompt.empty() && prompt.back().block == block)
    prompt.back().repeats += repeats;
  else
    prompt.push_back({block, repeats});
}

}  // namespace

int32_t TokenBlocks::add(std::span<const int32_t> tokens) {
  const auto [place, is_new] =
      ids_.try_emplace({tokens.begin(), tokens.end()}, int32_t(by_id_.size()));
  if (is_new)
    by_id_.push_back(&place->first);
  return place->second;
}

int64_t token_count(const TokenBlocks& blocks, const Prompt& prompt) {
  int64_t count = 0;
  for (const Run& run : prompt)
    count += int64_t(blocks[run.block].size()) * run.repeats;
  return count;
}

void write_tokens(
    const TokenBlocks& blocks, const Prompt& prompt, int64_t begin, int64_t end, int64_t* out) {
  for (const Run& run : prompt) {
    const auto tokens = blocks[run.block];
    const auto size = int64_t(tokens.size());
    const int64_t last = std::min(end, size * run.repeats);
    for (int64_t i = std::max<int64_t>(begin, 0); i < last; ++i)
      *out++ = tokens[size_t(i % size)];
    begin -= size * run.repeats;
    end -= size * run.repeats;
    if (end <= 0)
      return;
  }
  check(end <= 0, Error::Kind::Internal, "a prompt ends {} tokens before those asked for", end);
}

Comparison compare(const TokenBlocks& blocks, const Prompt& a, const Prompt& b) {
  Cursor left{blocks, a}, right{blocks, b};
  int64_t common = 0;
  while (!left.at_end() && !right.at_end()) {
    if (left.block() == right.block() && left.offset == 0 && right.offset == 0) {
      const int64_t copies = std::min(left.copies_left(), right.copies_left());
      common += copies * int64_t(left.rest().size());
      left.skip_copies(copies);
      right.skip_copies(copies);
      continue;
    }
    const auto x = left.rest(), y = right.rest();
    const size_t count = std::min(x.size(), y.size());
    const auto differ = std::mismatch(x.begin(), x.begin() + int64_t(count), y.begin()).first;
    const int64_t equal = differ - x.begin();
    common += equal;
    if (equal < int64_t(count))
      return {common, x[size_t(equal)] < y[size_t(equal)]};
    left.skip_tokens(equal);
    right.skip_tokens(equal);
  }
  return {common, left.at_end() && !right.at_end()};
}

const std::vector<int32_t>& PromptAssembler::blocks_of(
    const std::vector<std::string_view>& copies) {
  std::string marked, text;
  for (const std::string_view copy : copies) {
    marked.append(copy).push_back('\0');
    text.append(copy);
  }
  const auto found = seen_.find(marked);
  if (found != seen_.end())
    return found->second;

  // Offsets are counted from the end: a beginning-of-text token or a space a tokenizer puts in
  // front then falls on the first piece, whatever it spells.
  const std::vector<int32_t> tokens = tokenizer_.encode(text);
  std::vector<int64_t> begins(tokens.size());  // in bytes of the text
  auto place = int64_t(text.size());
  for (size_t i = tokens.size(); i-- > 0;) {
    place -= int64_t(tokenizer_.decode_bytes({&tokens[i], 1}).size());
    begins[i] = place;
  }
  const bool spells = tokenizer_.decode_bytes(tokens).ends_with(text);
  check(spells && (begins.empty() || begins.front() <= 0), Error::Kind::Unsupported,
        "{}: the tokens of a prompt do not spell it; its pieces cannot be told apart",
        tokenizer_.source());

  std::vector<int32_t> ids;
  size_t first = 0;
  int64_t end = 0;
  for (const std::string_view copy : copies) {
    end += int64_t(copy.size());
    size_t last = first;
    while (last < tokens.size() && (begins[last] < end || end == int64_t(text.size())))
      ++last;
    ids.push_back(last == first ? kNothing : blocks_.add({&tokens[first], last - first}));
    first = last;
  }
  return seen_.emplace(std::move(marked), std::move(ids)).first->second;
}

PromptAssembler::Assembled PromptAssembler::assemble(std::span<const Piece> pieces) {
  std::vector<std::string_view> copies;
  for (const Piece& piece : pieces)
    copies.insert(copies.end(), size_t(std::min(piece.repeats, kCopies)), piece.text);
  const std::vector<int32_t>& ids = blocks_of(copies);

  Assembled result;
  int64_t tokens = 0;
  const auto put = [&](int32_t block, int64_t repeats) {
    append(result.prompt, block, repeats);
    tokens += block == kNothing ? 0 : int64_t(blocks_[block].size()) * repeats;
  };
  auto id = ids.begin();
  for (const Piece& piece : pieces) {
    result.begins.push_back(tokens);
    if (piece.repeats < kCopies) {
      for (int64_t i = 0; i < piece.repeats; ++i)
        put(*id++, 1);
      continue;
    }
    check(id[1] == id[2] && id[1] != kNothing, Error::Kind::Unsupported,
          "{}: splits equal copies of '{}' in different ways, so long prompts cannot be assembled "
          "from it",
          tokenizer_.source(), piece.text);
    put(id[0], 1);
    put(id[1], piece.repeats - 2);
    put(id[3], 1);
    id += kCopies;
  }
  return result;
}

}  // namespace stuffed::eval
