#include "stuffed/io/associative_recall.h"

#include <algorithm>
#include <set>

#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

/// `count` different ones of first, first+1, ..., last.
std::vector<int32_t> draw_different(Rng& rng, int64_t count, int64_t first, int64_t last) {
  std::vector<int32_t> drawn;
  std::set<int32_t> seen;
  while (std::ssize(drawn) < count) {
    const auto id = static_cast<int32_t>(first + int64_t(rng.below(uint64_t(last - first + 1))));
    if (seen.insert(id).second)
      drawn.push_back(id);
  }
  return drawn;
}

/// Numbers 0 to count - 1 in any order.
std::vector<int64_t> draw_order(Rng& rng, int64_t count) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < count; ++i)
    order.push_back(i);
  shuffle(rng, order);
  return order;
}

}  // namespace

int64_t context_tokens(const RecallOptions& options) {
  return 2 * (options.pairs + options.updates);
}

int64_t query_tokens(const RecallOptions& options) {
  return 2 * options.queries + options.gap * (options.queries - 1);
}

void check_recall(const RecallOptions& options) {
  check(options.queries <= options.pairs && options.updates <= options.pairs, Error::Kind::Usage,
        "{} queries and {} updates of {} pairs: each key is asked once and replaced once at most",
        options.queries, options.updates, options.pairs);
  const int64_t half = options.vocabulary / 2;
  check(
      half - 1 >= options.pairs && options.vocabulary - half >= options.pairs + options.updates,
      Error::Kind::Usage,
      "a vocabulary of {} has {} keys and {} values, and {} pairs with {} updates need {} and {}; "
      "give fewer --pairs or a larger --vocabulary",
      options.vocabulary, std::max<int64_t>(0, half - 1), options.vocabulary - half, options.pairs,
      options.updates, options.pairs, options.pairs + options.updates);
}

RecallSample draw_recall(Rng& rng, const RecallOptions& options) {
  const int64_t half = options.vocabulary / 2;
  const auto keys = draw_different(rng, options.pairs, 1, half - 1);
  auto values = draw_different(rng, options.pairs + options.updates, half, options.vocabulary - 1);
  RecallSample sample;
  const auto put = [&](size_t pair, size_t value) {
    sample.context.push_back(keys[pair]);
    sample.context.push_back(values[value]);
  };
  for (size_t pair = 0; pair < keys.size(); ++pair)
    put(pair, pair);
  std::vector<bool> is_updated(keys.size(), false);
  std::vector<int64_t> order = draw_order(rng, options.pairs);
  for (int64_t i = 0; i < options.updates; ++i) {
    const auto pair = static_cast<size_t>(order[size_t(i)]);
    put(pair, keys.size() + size_t(i));
    values[pair] = values[keys.size() + size_t(i)];
    is_updated[pair] = true;
  }
  order = draw_order(rng, options.pairs);
  for (int64_t i = 0; i < options.queries; ++i) {
    const auto pair = static_cast<size_t>(order[size_t(i)]);
    sample.queries.push_back(keys[pair]);
    sample.answers.push_back(values[pair]);
    sample.is_updated.push_back(is_updated[pair]);
  }
  return sample;
}

}  // namespace stuffed::io
