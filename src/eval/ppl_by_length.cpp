#include "stuffed/eval/ppl_by_length.h"

#include <cmath>
#include <limits>

#include <ATen/ATen.h>

#include "ppl_summary.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/eval/stream.h"
#include "stuffed/ops/linear_cross_entropy.h"
#include "token_losses.h"

namespace stuffed::eval {

namespace {

std::string key_of(int64_t document) {
  return fmt::format("document={}", document);
}

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
  for (size_t j = 1; j < document.tokens.size(); ++j) {
    const auto b = (j - 1) / static_cast<size_t>(bucket);
    if (bytes.size() <= b)
      bytes.resize(b + 1);
    bytes[b] +=
        static_cast<int64_t>(tokenizer.decode_bytes(std::span(&document.tokens[j], 1)).size());
  }
  return bytes;
}

BucketSums score(const RecurrentLM& model,
                 const Recurrence& rule,
                 const io::Document& document,
                 const PplByLengthOptions& options,
                 const TokenLosses& sidecar,
                 PplProgress& progress,
                 const std::function<void(const PplProgress&)>& on_progress) {
  const auto size = static_cast<int64_t>(document.tokens.size());
  const Tensor tokens =
      at::tensor(at::ArrayRef<int32_t>(document.tokens), at::kInt).view({1, size});
  State state = model.initial_state(1);
  BucketSums sums;
  progress.targets = size - 1;
  stream(model, rule, tokens, state, options.segment, [&](const Segment& segment) {
    const Tensor nll = ops::linear_cross_entropy(segment.out.hidden, model.head().linear,
                                                 model.head().vocab, segment.targets)
                           .to(at::kCPU, at::kFloat)
                           .contiguous();
    const std::span values(nll.const_data_ptr<float>(), static_cast<size_t>(nll.numel()));
    add(sums, values, segment.begin, options.bucket);
    sidecar.append(values);
    progress.position = segment.begin + nll.numel();
    progress.scored_by_process += nll.numel();
    on_progress(progress);
  });
  return sums;
}

io::json record_of(const io::Document& document,
                   int64_t index,
                   const BucketSums& sums,
                   const io::Tokenizer* tokenizer,
                   const PplByLengthOptions& options) {
  io::json record = options.run;
  record["document"] = index;
  record["name"] = document.name;
  record["targets"] = document.tokens.size() - 1;
  record["bucket_tokens"] = options.bucket;
  record["nll_sum_nats"] = sums.nll;
  record["finite"] = sums.not_finite == 0;
  record["not_finite_targets"] = sums.not_finite;
  if (tokenizer != nullptr)
    record["text_bytes"] = text_bytes(document, *tokenizer, options.bucket);
  for (const io::Boundary& boundary : document.boundaries)
    record["boundaries"].push_back({{"position", boundary.position}, {"name", boundary.name}});
  return record;
}

}  // namespace

io::json run_ppl_by_length(const RecurrentLM& model,
                           const Recurrence& rule,
                           io::TokenSource& source,
                           const io::Tokenizer* tokenizer,
                           const PplByLengthOptions& options,
                           io::Results& results,
                           const std::function<void(const PplProgress&)>& on_progress) {
  if (options.train_len)
    check(options.bucket <= *options.train_len / 4, Error::Kind::Usage,
          "--bucket {} is larger than a quarter of --train-len {}; the baseline needs at least "
          "four buckets",
          options.bucket, *options.train_len);
  const TokenLosses sidecar(options.per_token);
  if (results.finished()) {
    sidecar.remove_partial();
    return results.record("summary");
  }
  std::vector<int64_t> targets;
  while (results.done(key_of(static_cast<int64_t>(targets.size()))))
    targets.push_back(results.record(key_of(static_cast<int64_t>(targets.size()))).at("targets"));
  int64_t floats = 0;
  for (const int64_t row : targets)
    floats += row;
  sidecar.keep(floats);

  PplProgress progress;
  for (int64_t index = 0; const std::optional<io::Document> document = source.next(); ++index) {
    if (results.done(key_of(index)))
      continue;
    stop_if_interrupted();
    progress.document = index;
    const BucketSums sums = score(model, rule, *document, options, sidecar, progress, on_progress);
    results.append(key_of(index), record_of(*document, index, sums, tokenizer, options));
    targets.push_back(static_cast<int64_t>(document->tokens.size()) - 1);
  }
  if (!results.done("summary"))
    results.append("summary",
                   summarise(results, static_cast<int64_t>(targets.size()), options, source));
  sidecar.finish(targets);
  results.finish();
  sidecar.remove_partial();
  return results.record("summary");
}

}  // namespace stuffed::eval
