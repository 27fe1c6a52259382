#include "stuffed/eval/ppl_by_length.h"

#include <cmath>
#include <numeric>
#include <unordered_map>

#include <ATen/ATen.h>

#include "ppl_summary.h"
#include "src/eval/documents.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/stream.h"
#include "stuffed/models/state_file.h"
#include "stuffed/ops/linear_cross_entropy.h"
#include "token_losses.h"

namespace stuffed::eval {

namespace {

/// Sums of one document, by bucket.
struct BucketSums {
  std::vector<double> nll;
  int64_t not_finite = 0;
};

void add(BucketSums& sums, std::span<const float> nll, int64_t begin, int64_t bucket) {
  for (size_t i = 0; i < nll.size(); ++i) {
    const auto b = static_cast<size_t>((begin + static_cast<int64_t>(i)) / bucket);
    if (sums.nll.size() <= b)
      sums.nll.resize(b + 1);
    sums.nll[b] += nll[i];
    sums.not_finite += !std::isfinite(nll[i]);
  }
}

/// Bytes that the targets of each bucket spell.
std::vector<int64_t> text_bytes(const io::Document& document,
                                const io::Tokenizer& tokenizer,
                                int64_t bucket) {
  std::vector<int64_t> bytes;
  std::unordered_map<int32_t, int64_t> spelled;  // by id: a long document has few
  for (size_t j = 1; j < document.tokens.size(); ++j) {
    const auto b = (j - 1) / static_cast<size_t>(bucket);
    if (bytes.size() <= b)
      bytes.resize(b + 1);
    const auto [found, is_new] = spelled.try_emplace(document.tokens[j]);
    if (is_new)
      found->second = std::ssize(tokenizer.decode_bytes(std::span(&document.tokens[j], 1)));
    bytes[b] += found->second;
  }
  return bytes;
}

class PplByLength : public DocumentTask {
 public:
  PplByLength(const RecurrentLM& model,
              const Recurrence& rule,
              const io::Tokenizer* tokenizer,
              const PplByLengthOptions& options,
              const io::Journal& journal)
      : model_(model),
        rule_(rule),
        tokenizer_(tokenizer),
        options_(options),
        journal_(journal),
        sidecar_(options.per_token, journal) {}

  int64_t batch() const override { return options_.batch; }

  void keep(const std::vector<int64_t>& targets, bool in_the_middle) override {
    floats_ = std::accumulate(targets.begin(), targets.end(), int64_t{0});
    sidecar_.keep(floats_, in_the_middle);
  }

  std::vector<io::json> measure(const Batch& batch, Measuring& measuring) override {
    const std::vector<BucketSums> sums = score(batch, measuring);
    std::vector<io::json> records;
    for (size_t row = 0; row < sums.size(); ++row)
      records.push_back(record_of(batch.documents[row], sums[row]));
    floats_ += batch.targets() * batch.rows();
    return records;
  }

  io::json summarise(const std::vector<int64_t>&) override {
    return stuffed::eval::summarise(journal_, options_);
  }

  void conclude(const std::vector<int64_t>& targets) override { sidecar_.finish(targets); }
  void remove_partial() const override { sidecar_.remove_partial(); }

 private:
  /// One BucketSums per document.
  std::vector<BucketSums> score(const Batch& batch, Measuring& measuring) {
    std::vector<BucketSums> sums(batch.documents.size());
    State state = start(batch, measuring, sums);
    measuring.begin(batch.targets(), state.position);
    const Tensor tokens = tokens_of(batch, options_.batch).slice(1, state.position);
    stream(model_, rule_, tokens, state, options_.segment, [&](const Segment& segment) {
      const Tensor nll = ops::linear_cross_entropy(segment.out.hidden, model_.head().linear,
                                                   model_.head().vocab, segment.targets)
                             .to(at::kCPU, at::kFloat)
                             .contiguous();  // [rows,T]
      const int64_t width = nll.size(1);
      for (size_t row = 0; row < sums.size(); ++row) {
        const std::span values(nll.const_data_ptr<float>() + row * static_cast<size_t>(width),
                               static_cast<size_t>(width));
        add(sums[row], values, segment.begin, options_.bucket);
        sidecar_.write(values,
                       floats_ + static_cast<int64_t>(row) * batch.targets() + segment.begin);
      }
      measuring.advance(segment.begin + width, width * batch.rows());
      if (state.position < batch.targets())
        measuring.reached([&](Snapshot& snapshot) {
          sidecar_.sync();
          fill(snapshot, state, sums);
        });
    });
    sidecar_.sync();
    return sums;
  }

  static void fill(Snapshot& snapshot, const State& state, const std::vector<BucketSums>& sums) {
    std::vector<int64_t> not_finite;
    put_state(snapshot.tensors, "state.", state);
    for (size_t row = 0; row < sums.size(); ++row) {
      snapshot.tensors[fmt::format("nll_sum.{}", row)] = at::tensor(sums[row].nll, at::kDouble);
      not_finite.push_back(sums[row].not_finite);
    }
    snapshot.tensors["not_finite"] = at::tensor(not_finite, at::kLong);
    snapshot.fields["position"] = state.position;
  }

  /// The state at the first token, or where a stopped run got to, with its sums.
  State start(const Batch& batch, const Measuring& measuring, std::vector<BucketSums>& sums) const {
    const Snapshot* const from = measuring.resumed();
    if (!from)
      return model_.initial_state(options_.batch);
    const int64_t position = from->integer("position", 1, batch.targets() - 1);
    const Tensor& not_finite = from->at("not_finite", at::kLong, 1);
    from->check_that(not_finite.size(0) == batch.rows());
    for (size_t row = 0; row < sums.size(); ++row) {
      const Tensor& nll = from->at(fmt::format("nll_sum.{}", row), at::kDouble, 1);
      from->check_that(nll.size(0) == (position - 1) / options_.bucket + 1);
      sums[row].nll.assign(nll.const_data_ptr<double>(),
                           nll.const_data_ptr<double>() + nll.numel());
      sums[row].not_finite = not_finite.const_data_ptr<int64_t>()[row];
    }
    sidecar_.check_holds(floats_ + (batch.rows() - 1) * batch.targets() + position);
    return take_state(from->tensors, "state.", position, options_.batch, model_, from->where);
  }

  io::json record_of(const io::Document& document, const BucketSums& sums) const {
    io::json record = options_.run;
    record["bucket_tokens"] = options_.bucket;
    record["nll_sum_nats"] = sums.nll;
    record["finite"] = sums.not_finite == 0;
    record["not_finite_targets"] = sums.not_finite;
    if (tokenizer_ != nullptr)
      record["text_bytes"] = text_bytes(document, *tokenizer_, options_.bucket);
    return record;
  }

  const RecurrentLM& model_;
  const Recurrence& rule_;
  const io::Tokenizer* tokenizer_;  // may be null
  const PplByLengthOptions& options_;
  const io::Journal& journal_;
  TokenLosses sidecar_;
  int64_t floats_ = 0;  // of the sidecar, taken by the documents that are done
};

}  // namespace

io::json run_ppl_by_length(const RecurrentLM& model,
                           const Recurrence& rule,
                           io::TokenSource& source,
                           const io::Tokenizer* tokenizer,
                           const PplByLengthOptions& options,
                           io::Journal& journal,
                           Checkpoint& checkpoint,
                           const OnProgress& on_progress) {
  PplByLength task(model, rule, tokenizer, options, journal);
  return run_documents(task, source, journal, checkpoint, on_progress);
}

}  // namespace stuffed::eval
