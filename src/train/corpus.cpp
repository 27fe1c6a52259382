#include "src/train/corpus.h"

#include <algorithm>
#include <numeric>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/core/rng.h"
#include "stuffed/io/byte_stream.h"

namespace stuffed::train {

TokenCorpus::TokenCorpus(const std::vector<std::filesystem::path>& files,
                         const io::Tokenizer& tokenizer,
                         int64_t at_least,
                         bool wait) {
  const bool is_bytes = tokenizer.kind() == "bytes";
  Sha256 hash;
  for (const auto& path : files) {
    const int64_t begin = size();
    const std::string text = io::read_stream(path, {.wait = wait});
    hash.update(text.data(), text.size());
    if (is_bytes) {
      bytes_ += text;
    } else {
      const std::vector<int32_t> ids = tokenizer.encode(text);
      ids_.insert(ids_.end(), ids.begin(), ids.end());
    }
    check(size() - begin >= at_least, Error::Kind::Input,
          "{}: has {} {}, but a window needs {}; join short files, or give a smaller --window",
          path.string(), size() - begin, is_bytes ? "bytes" : "tokens", at_least);
    ends_.push_back(size());
  }
  hash_ = hash.hex();
}

int64_t TokenCorpus::size() const {
  return static_cast<int64_t>(bytes_.size() + ids_.size());
}

void TokenCorpus::copy(int64_t place, std::span<int64_t> out) const {
  const auto end = std::ranges::upper_bound(ends_, place);
  const int64_t begin_of_file = end == ends_.begin() ? 0 : *(end - 1);
  const auto begin = static_cast<size_t>(
      std::max(begin_of_file, std::min(place, *end - static_cast<int64_t>(out.size()))));
  const size_t count = std::min(out.size(), static_cast<size_t>(size()) - begin);
  for (size_t i = 0; i < count; ++i)
    out[i] = ids_.empty() ? static_cast<unsigned char>(bytes_[begin + i]) : ids_[begin + i];
}

ShardOrder::ShardOrder(io::TokenShards shards, uint64_t seed, std::string name)
    : shards_(std::move(shards)), seed_(seed), name_(std::move(name)) {}

const ShardOrder::Epoch& ShardOrder::epoch(int64_t number) const {
  if (epoch_.number == number)
    return epoch_;
  epoch_.number = number;
  epoch_.documents.resize(static_cast<size_t>(shards_.documents()));
  std::iota(epoch_.documents.begin(), epoch_.documents.end(), 0);
  Rng rng(seed_, fmt::format("order/{}/{}", name_, number));
  shuffle(rng, epoch_.documents);
  epoch_.begins.clear();
  int64_t begin = 0;
  for (const int64_t document : epoch_.documents) {
    epoch_.begins.push_back(begin);
    begin += shards_.length(document);
  }
  return epoch_;
}

std::vector<int64_t> ShardOrder::window(int64_t number, std::span<int64_t> out) const {
  const auto tokens = static_cast<int64_t>(out.size());
  const int64_t per_epoch = windows_per_epoch(tokens);
  const Epoch& now = epoch(number / per_epoch);
  int64_t place = number % per_epoch * (tokens - 1);
  auto at =
      static_cast<size_t>(std::ranges::upper_bound(now.begins, place) - now.begins.begin() - 1);
  std::vector<int64_t> starts;
  for (int64_t filled = 0; filled < tokens; ++at) {
    if (filled > 0)
      starts.push_back(filled);
    const int64_t from = place - now.begins[at];
    const int64_t count = std::min(tokens - filled, shards_.length(now.documents[at]) - from);
    shards_.copy(now.documents[at], from,
                 out.subspan(static_cast<size_t>(filled), static_cast<size_t>(count)));
    filled += count;
    place += count;
  }
  return starts;
}

Tensor ShardOrder::beginnings(int64_t rows, int64_t tokens) const {
  std::vector<int64_t> long_enough;
  for (int64_t i = 0; i < shards_.documents(); ++i)
    if (shards_.length(i) >= tokens)
      long_enough.push_back(i);
  check(!long_enough.empty(), Error::Kind::Input,
        "{}: no document has the {} tokens that a validation sequence takes; give a smaller "
        "--validation-length",
        shards_.folder().string(), tokens);
  const Tensor all = at::empty({rows, tokens}, at::TensorOptions(at::kLong));
  for (int64_t row = 0; row < rows; ++row)
    shards_.copy(
        long_enough[static_cast<size_t>(row * static_cast<int64_t>(long_enough.size()) / rows)], 0,
        {all.data_ptr<int64_t>() + row * tokens, static_cast<size_t>(tokens)});
  return all;
}

}  // namespace stuffed::train
