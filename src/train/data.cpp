#include "stuffed/train/data.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "src/train/corpus.h"
#include "src/train/tasks.h"
#include "stuffed/core/error.h"

namespace stuffed::train {

namespace {

constexpr std::pair<Source::Kind, std::string_view> kTasks[] = {{Source::Text, "text"},
                                                                {Source::Repeat, "repeat"},
                                                                {Source::Passkey, "passkey"},
                                                                {Source::Recall, "recall"},
                                                                {Source::Mqar, "mqar"}};

Tensor empty_tokens(int64_t rows, int64_t columns) {
  return at::empty({rows, columns}, at::kLong);
}

std::span<int64_t> row_of(const Tensor& tokens, int64_t row) {
  const int64_t columns = tokens.size(1);
  return {tokens.data_ptr<int64_t>() + row * columns, static_cast<size_t>(columns)};
}

void check_mix(const DataConfig& config) {
  const auto& mix = config.mix;
  const double sum =
      std::accumulate(mix.begin(), mix.end(), 0.0,
                      [](double total, const auto& part) { return total + part.second; });
  check(std::ranges::all_of(mix, [](const auto& part) { return part.second >= 0; }) &&
            std::abs(sum - 1) < 1e-9,
        Error::Kind::Usage,
        "--mix: the shares sum to {}; each must be positive, and their sum must be 1", sum);
  check(!mix.contains(Source::Text) || mix.at(Source::Text) == 0 || !config.text.empty(),
        Error::Kind::Usage, "--mix asks for text, and no --text FILE is named");
}

void check_data_config(const DataConfig& config) {
  check_mix(config);
  check(config.window > 0, Error::Kind::Usage, "--window: {} tokens; it must be positive",
        config.window);
  check(config.repeat_min >= 1 && config.repeat_max >= config.repeat_min, Error::Kind::Usage,
        "repeated strings of {} to {} tokens: the smallest must be 1 or more, and not above the "
        "largest",
        config.repeat_min, config.repeat_max);
  check(config.recall_pairs >= 2, Error::Kind::Usage, "--recall-pairs: {}; it must be 2 or more",
        config.recall_pairs);
  const std::filesystem::path input = "-";
  check(std::ranges::count(config.text, input) + std::ranges::count(config.held_out, input) <= 1,
        Error::Kind::Usage, "standard input (-) can be read only once");
}

using ShardOrders = std::map<std::string, std::unique_ptr<ShardOrder>>;

ShardOrders open_shards(const std::map<std::string, std::filesystem::path>& folders,
                        uint64_t seed) {
  ShardOrders sets;
  for (const auto& [name, folder] : folders)
    sets[name] = std::make_unique<ShardOrder>(io::TokenShards::open(folder), seed, name);
  return sets;
}

void check_one_tokenizer(const ShardOrders& sets, const io::Tokenizer& tokenizer) {
  for (const auto& [name, set] : sets)
    check(set->shards().tokenizer().value("sha256", "") == tokenizer.hash(), Error::Kind::Input,
          "{}: its tokens are of another tokenizer than {}; one model has one tokenizer",
          set->shards().folder().string(), tokenizer.source());
}

}  // namespace

std::string source_name(const Source& source) {
  for (const auto& [kind, name] : kTasks)
    if (kind == source.kind)
      return std::string(name);
  return source.name;
}

Source parse_source(std::string_view name, const DataConfig& config) {
  for (const auto& [kind, task] : kTasks)
    if (task == name)
      return kind;
  std::vector<std::string> sets;
  for (const auto& [set, folder] : config.shards)
    sets.push_back(set);
  check(config.shards.contains(std::string(name)), Error::Kind::Usage,
        "--mix: '{}' is no source of training tokens; there are text, repeat, passkey, recall, "
        "mqar{}{}",
        name,
        sets.empty() ? ", and sets of shards by the names that --shards NAME=DIR gives them"
                     : ", and the shards ",
        fmt::join(sets, ", "));
  return {Source::Shards, std::string(name)};
}

TrainingData::TrainingData(const DataConfig& config) : config_(config) {
  check_data_config(config_);
  shards_ = open_shards(config_.shards, config_.seed);
  held_out_shards_ = open_shards(config_.held_out_shards, config_.seed);
  const std::string from = !config_.tokenizer.empty() ? config_.tokenizer
                           : shards_.empty()          ? "bytes"
                                             : shards_.begin()->second->shards().folder().string();
  tokenizer_ = io::load_tokenizer(from, {.add_bos = false});
  check_one_tokenizer(shards_, *tokenizer_);
  check_one_tokenizer(held_out_shards_, *tokenizer_);
  for (const auto& [name, set] : shards_)
    check(set->windows_per_epoch(config_.window + 1) > 0, Error::Kind::Input,
          "{}: has {} tokens, and a window takes {}", set->shards().folder().string(),
          set->shards().tokens(), config_.window + 1);
  text_ =
      std::make_unique<TokenCorpus>(config_.text, *tokenizer_, config_.window + 1, config_.wait);
  held_out_ = std::make_unique<TokenCorpus>(config_.held_out, *tokenizer_, 2, config_.wait);
}

TrainingData::~TrainingData() = default;

void TrainingData::fill(const Source& source, Rng& rng, std::span<int64_t> out) const {
  const Alphabet alphabet(*tokenizer_);
  if (source.kind == Source::Text)
    text_->copy(static_cast<int64_t>(rng.below(static_cast<uint64_t>(text_->size()))), out);
  else if (source.kind == Source::Repeat)
    fill_repeat(rng, alphabet, draw_uniform(rng, config_.repeat_min, config_.repeat_max), out);
  else if (source.kind == Source::Recall)
    fill_recall(rng, alphabet, config_.recall_pairs, out);
  else if (source.kind == Source::Mqar)
    fill_mqar(rng, tokenizer_->vocab_size(), config_.recall_pairs, out);
  else
    fill_passkey(rng, *tokenizer_, out);
}

/// Systematic sampling: one random offset, then equal steps through the cumulative shares.
std::vector<Source> TrainingData::sources_of(int64_t step, int64_t windows) const {
  const double offset = Rng(config_.seed, fmt::format("mix/{}", step)).uniform();
  std::vector<Source> sources;
  for (int64_t row = 0; row < windows; ++row) {
    double place = (static_cast<double>(row) + offset) / static_cast<double>(windows);
    Source source = config_.mix.rbegin()->first;
    for (const auto& [candidate, share] : config_.mix) {
      if (place < share) {
        source = candidate;
        break;
      }
      place -= share;
    }
    sources.push_back(source);
  }
  return sources;
}

Batch TrainingData::sequences(int64_t step,
                              int64_t windows,
                              int64_t length,
                              DataPosition& position) const {
  const Tensor tokens = empty_tokens(windows, config_.window + 1);
  const int64_t per_window = config_.window / length;
  Batch batch;
  batch.starts.resize(static_cast<size_t>(windows * per_window));
  const std::vector<Source> sources = sources_of(step, windows);
  for (int64_t row = 0; row < windows; ++row) {
    const Source& source = sources[static_cast<size_t>(row)];
    if (source.kind != Source::Shards) {
      Rng rng(config_.seed, fmt::format("train/{}/{}", step, row));
      fill(source, rng, row_of(tokens, row));
      continue;
    }
    for (const int64_t start :
         shards_.at(source.name)->window(position[source.name]++, row_of(tokens, row)))
      if (start < config_.window)  // else it is a target alone
        batch.starts[static_cast<size_t>(row * per_window + start / length)].push_back(start %
                                                                                       length);
  }
  batch.tokens = tokens.unfold(1, length + 1, length).reshape({-1, length + 1});
  return batch;
}

bool TrainingData::has_validation(const Source& source) const {
  if (source.kind == Source::Shards)
    return held_out_shards_.contains(source.name);
  return source.kind != Source::Text || !config_.held_out.empty();
}

Tensor TrainingData::validation(const Source& source, int64_t rows, int64_t length) const {
  if (source.kind == Source::Shards)
    return held_out_shards_.at(source.name)->beginnings(rows, length + 1);
  const Tensor tokens = empty_tokens(rows, length + 1);
  if (source.kind == Source::Text) {
    const int64_t size = held_out_->size();
    check(size > length, Error::Kind::Input,
          "the held-out text has {} tokens; validation at {} needs one more than that", size,
          length);
    for (int64_t row = 0; row < rows; ++row)
      held_out_->copy(row * (size - length - 1) / rows, row_of(tokens, row));
    return tokens;
  }
  for (int64_t row = 0; row < rows; ++row) {
    Rng rng(config_.seed, fmt::format("validation/{}/{}", source_name(source), row));
    fill(source, rng, row_of(tokens, row));
  }
  return tokens;
}

std::string TrainingData::text_hash() const {
  return text_->hash();
}

std::string TrainingData::held_out_hash() const {
  return held_out_->hash();
}

std::map<std::string, std::string> TrainingData::shard_hashes(bool held_out) const {
  std::map<std::string, std::string> hashes;
  for (const auto& [name, set] : held_out ? held_out_shards_ : shards_)
    hashes[name] = set->shards().hash();
  return hashes;
}

}  // namespace stuffed::train
