#include "repeated_text.h"

#include <algorithm>
#include <span>
#include <utility>

namespace stuffed::io {

namespace {

constexpr size_t kStretch = size_t{1} << 14;     // bytes
constexpr size_t kLongestCycle = kStretch / 64;  // bytes: the ends have many bodies of room
constexpr size_t kWhole = 4 * kStretch;          // bytes: what is shorter costs little

/// The smallest p such that ids[i] == ids[i + p] wherever both are there (Knuth, Morris, Pratt).
size_t smallest_period(std::span<const int32_t> ids) {
  std::vector<size_t> border(ids.size(), 0);  // of each beginning: the longest that also ends it
  for (size_t i = 1, length = 0; i < ids.size(); border[i++] = length) {
    while (length > 0 && ids[i] != ids[length])
      length = border[length - 1];
    length += ids[i] == ids[length];
  }
  return ids.empty() ? 0 : ids.size() - border.back();
}

}  // namespace

int64_t RepeatedText::Folded::count() const {
  return std::ssize(head) + bodies * std::ssize(body) + std::ssize(tail);
}

void RepeatedText::Folded::append(int64_t begin, int64_t end, std::vector<int32_t>& ids) const {
  ids.reserve(ids.size() + static_cast<size_t>(end - begin));
  const auto add = [&](const std::vector<int32_t>& part, int64_t place) {
    const int64_t first = std::max(begin, place), last = std::min(end, place + std::ssize(part));
    if (first < last)
      ids.insert(ids.end(), part.begin() + (first - place), part.begin() + (last - place));
  };
  add(head, 0);
  const int64_t width = std::max<int64_t>(1, std::ssize(body));
  for (int64_t i = std::max<int64_t>(0, (begin - std::ssize(head)) / width);
       i < bodies && std::ssize(head) + i * width < end; ++i)
    add(body, std::ssize(head) + i * width);
  add(tail, std::ssize(head) + bodies * std::ssize(body));
}

RepeatedText::RepeatedText(const Tokenizer& tokenizer, std::string unit)
    : tokenizer_(tokenizer), unit_(std::move(unit)) {}

std::vector<int32_t> RepeatedText::encode(size_t bytes) {
  encoded_bytes_ += bytes;
  std::string text;
  text.reserve(bytes + unit_.size());
  while (text.size() < bytes)
    text += unit_;
  text.resize(bytes);
  return tokenizer_.encode(text);
}

void RepeatedText::find_cycle() {
  has_looked_ = true;
  const std::vector<int32_t> ids = encode((kStretch / unit_.size() + 1) * unit_.size());
  const std::span middle = std::span(ids).subspan(ids.size() / 4, ids.size() / 2);
  cycle_tokens_ = smallest_period(middle);
  const size_t bytes = tokenizer_.decode_bytes(middle.first(cycle_tokens_)).size();
  cycle_ = bytes <= kLongestCycle && bytes % unit_.size() == 0 ? bytes : 0;
}

/// False if the ids have not the form.
bool RepeatedText::fold(size_t bytes) {
  if (bytes < kWhole)
    return false;
  if (!has_looked_)
    find_cycle();
  if (cycle_ == 0)
    return false;
  const size_t shortest = kStretch + (bytes - kStretch) % cycle_;
  const std::vector<int32_t> ids = encode(shortest);
  if (ids.size() / 4 < cycle_tokens_)
    return false;
  const auto middle = ids.begin() + std::ssize(ids) / 2;
  ids_ = {.bytes = bytes,
          .head = {ids.begin(), middle},
          .body = {middle, middle + static_cast<std::ptrdiff_t>(cycle_tokens_)},
          .tail = {middle, ids.end()},
          .bodies = 0};
  for (const size_t bodies : {size_t{1}, size_t{2}, kStretch / cycle_}) {
    ids_.bodies = static_cast<int64_t>(bodies);
    std::vector<int32_t> expected;
    ids_.append(0, ids_.count(), expected);
    if (expected != encode(shortest + bodies * cycle_))
      return false;
  }
  ids_.bodies = static_cast<int64_t>((bytes - shortest) / cycle_);
  return true;
}

const RepeatedText::Folded& RepeatedText::ids_of(size_t bytes) {
  if (ids_.bytes != bytes && !fold(bytes))
    ids_ = {.bytes = bytes, .head = encode(bytes), .body = {}, .tail = {}, .bodies = 0};
  return ids_;
}

}  // namespace stuffed::io
