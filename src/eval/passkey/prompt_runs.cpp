#include "stuffed/eval/prompt_runs.h"

#include <algorithm>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

constexpr int32_t kNothing = -1;
constexpr int64_t kCopies = 4;    // first, two that must agree, last
constexpr int64_t kEdge = 3;      // units at either end: two that count, and one between them
constexpr int64_t kStretch = 32;  // units of a block, where there are as many: prompts share it

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

struct SplitTokens {
  std::vector<int32_t> tokens;
  std::vector<size_t> ends;  // of each part: the tokens before it begin in this part or before
};

/// The tokens of a text, by the parts they begin in. Offsets are counted from the end: a
/// beginning-of-text token or a space a tokenizer puts in front then falls on the first part,
/// whatever it spells.
SplitTokens split_by_parts(const io::Tokenizer& tokenizer,
                           const std::vector<std::string_view>& parts) {
  std::string text;
  for (const std::string_view part : parts)
    text.append(part);
  SplitTokens result{.tokens = tokenizer.encode(text), .ends = {}};
  const std::vector<int32_t>& tokens = result.tokens;
  std::vector<int64_t> begins(tokens.size());  // in bytes of the text
  auto place = int64_t(text.size());
  for (size_t i = tokens.size(); i-- > 0;) {
    place -= int64_t(tokenizer.decode_bytes({&tokens[i], 1}).size());
    begins[i] = place;
  }
  const bool spells = tokenizer.decode_bytes(tokens).ends_with(text);
  check(spells && (begins.empty() || begins.front() <= 0), Error::Kind::Unsupported,
        "{}: the tokens of a prompt do not spell it; its pieces cannot be told apart",
        tokenizer.source());
  size_t last = 0;
  int64_t end = 0;
  for (const std::string_view part : parts) {
    end += int64_t(part.size());
    while (last < tokens.size() && (begins[last] < end || end == int64_t(text.size())))
      ++last;
    result.ends.push_back(last);
  }
  return result;
}

/// How many texts stand for a piece.
int64_t copies_of(const Piece& piece) {
  return std::min(piece.repeats, piece.units ? 2 * kEdge : kCopies);
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

TextUnits::TextUnits(const io::Tokenizer& tokenizer, std::vector<std::string> units)
    : texts_(std::move(units)) {
  SplitTokens whole = split_by_parts(tokenizer, {texts_.begin(), texts_.end()});
  tokens_ = std::move(whole.tokens);
  ends_ = std::move(whole.ends);
}

std::span<const int32_t> TextUnits::tokens(int64_t begin, int64_t end) const {
  const size_t first = begin == 0 ? 0 : ends_.at(size_t(begin) - 1);
  const size_t last = end == 0 ? 0 : ends_.at(size_t(end) - 1);
  return {tokens_.data() + first, last - first};
}

const std::vector<int32_t>& PromptAssembler::blocks_of(
    const std::vector<std::string_view>& copies) {
  std::string marked;
  for (const std::string_view copy : copies)
    marked.append(copy).push_back('\0');
  const auto found = seen_.find(marked);
  if (found != seen_.end())
    return found->second;
  const SplitTokens whole = split_by_parts(tokenizer_, copies);
  std::vector<int32_t> ids;
  size_t first = 0;
  for (const size_t end : whole.ends) {
    ids.push_back(end == first ? kNothing : blocks_.add({&whole.tokens[first], end - first}));
    first = end;
  }
  return seen_.emplace(std::move(marked), std::move(ids)).first->second;
}

int32_t PromptAssembler::block_of(const TextUnits& units, int64_t begin, int64_t end) {
  const auto [place, is_new] = stretches_.try_emplace({begin, end}, kNothing);
  if (const auto tokens = units.tokens(begin, end); is_new && !tokens.empty())
    place->second = blocks_.add(tokens);
  return place->second;
}

void PromptAssembler::put_copies(const Piece& piece, const int32_t* ids, const Put& put) const {
  check(ids[1] == ids[2] && ids[1] != kNothing, Error::Kind::Unsupported,
        "{}: splits equal copies of '{}' in different ways, so long prompts cannot be assembled "
        "from it",
        tokenizer_.source(), piece.text);
  put(ids[0], 1);
  put(ids[1], piece.repeats - 2);
  put(ids[3], 1);
}

void PromptAssembler::put_units(const Piece& piece, const int32_t* ids, const Put& put) {
  const int64_t last = piece.first + piece.repeats;
  for (const auto& [id, unit] : {std::pair{ids[1], piece.first + 1}, {ids[4], last - 2}})
    check(id == block_of(*piece.units, unit, unit + 1), Error::Kind::Unsupported,
          "{}: splits '{}' in different ways in a text and at the edge of a part of it, so prompts "
          "cannot be assembled from it",
          tokenizer_.source(), piece.units->text(unit));
  put(ids[0], 1);
  put(ids[1], 1);
  for (int64_t unit = piece.first + 2; unit < last - 2;) {
    const bool is_whole = unit % kStretch == 0 && unit + kStretch <= last - 2;
    const int64_t end = unit + (is_whole ? kStretch : 1);
    put(block_of(*piece.units, unit, end), 1);
    unit = end;
  }
  put(ids[4], 1);
  put(ids[5], 1);
}

PromptAssembler::Assembled PromptAssembler::assemble(std::span<const Piece> pieces) {
  std::vector<std::string_view> copies;
  for (const Piece& piece : pieces)
    for (int64_t i = 0, count = copies_of(piece); i < count; ++i) {
      const int64_t skipped = i < kEdge ? 0 : piece.repeats - count;  // between the two ends
      copies.push_back(piece.units ? piece.units->text(piece.first + i + skipped)
                                   : std::string_view(piece.text));
    }
  const std::vector<int32_t>& ids = blocks_of(copies);

  Assembled result;
  int64_t tokens = 0;
  const auto put = [&](int32_t block, int64_t repeats) {
    append(result.prompt, block, repeats);
    tokens += block == kNothing ? 0 : int64_t(blocks_[block].size()) * repeats;
  };
  const int32_t* id = ids.data();
  for (const Piece& piece : pieces) {
    result.begins.push_back(tokens);
    const int64_t count = copies_of(piece);
    if (piece.units && piece.repeats > 2 * kEdge)
      put_units(piece, id, put);
    else if (!piece.units && piece.repeats >= kCopies)
      put_copies(piece, id, put);
    else
      for (int64_t i = 0; i < count; ++i)
        put(id[i], 1);
    id += count;
  }
  return result;
}

}  // namespace stuffed::eval
