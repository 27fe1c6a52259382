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

/// Documents that are fed side by side: consecutive ones of one length.
struct Batch {
  int64_t first = 0;  // index of the first
  std::vector<io::Document> documents;
};

/// [rows, N+1]. Missing rows repeat the first document: with one shape for every batch a document's
/// losses do not depend on how many share it, nor on which.
Tensor batch_tokens(const std::vector<io::Document>& documents, int64_t rows) {
  std::vector<Tensor> parts;
  for (int64_t row = 0; row < rows; ++row)
    parts.push_back(at::tensor(at::ArrayRef<int32_t>(
        documents[static_cast<size_t>(row) < documents.size() ? static_cast<size_t>(row) : 0]
            .tokens)));
  return at::stack(parts);
}

/// One BucketSums a document. `floats` of the sidecar are taken by the documents before these.
std::vector<BucketSums> score(const RecurrentLM& model,
                              const Recurrence& rule,
                              const Batch& batch,
                              const PplByLengthOptions& options,
                              const TokenLosses& sidecar,
                              int64_t floats,
                              Progress& progress,
                              const OnProgress& on_progress) {
  State state = model.initial_state(options.batch);
  std::vector<BucketSums> sums(batch.documents.size());
  progress.total = static_cast<int64_t>(batch.documents.front().tokens.size()) - 1;
  const Tensor tokens = batch_tokens(batch.documents, options.batch);
  stream(model, rule, tokens, state, options.segment, [&](const Segment& segment) {
    const Tensor nll = ops::linear_cross_entropy(segment.out.hidden, model.head().linear,
                                                 model.head().vocab, segment.targets)
                           .to(at::kCPU, at::kFloat)
                           .contiguous();  // [rows,T]
    for (size_t row = 0; row < sums.size(); ++row) {
      const auto width = static_cast<size_t>(nll.size(1));
      const std::span values(nll.const_data_ptr<float>() + row * width, width);
      add(sums[row], values, segment.begin, options.bucket);
      sidecar.write(values, floats + static_cast<int64_t>(row) * progress.total + segment.begin);
    }
    progress.done = segment.begin + nll.size(1);
    progress.done_by_process += nll.size(1) * static_cast<int64_t>(sums.size());
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
                           const OnProgress& on_progress) {
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

  Progress progress;
  Batch batch;
  const auto finish_batch = [&] {
    if (batch.documents.empty())
      return;
    stop_if_interrupted();
    progress.document = batch.first;
    const std::vector<BucketSums> sums =
        score(model, rule, batch, options, sidecar, floats, progress, on_progress);
    for (size_t row = 0; row < sums.size(); ++row) {
      const int64_t index = batch.first + static_cast<int64_t>(row);
      results.append(key_of(index),
                     record_of(batch.documents[row], index, sums[row], tokenizer, options));
      targets.push_back(progress.total);
      floats += progress.total;
    }
    batch.documents.clear();
  };
  for (int64_t index = 0; std::optional<io::Document> document = source.next(); ++index) {
    if (results.done(key_of(index)))
      continue;
    if (!batch.documents.empty() &&
        (static_cast<int64_t>(batch.documents.size()) == options.batch ||
         batch.documents.front().tokens.size() != document->tokens.size()))
      finish_batch();
    if (batch.documents.empty())
      batch.first = index;
    batch.documents.push_back(std::move(*document));
  }
  finish_batch();
  if (!results.done("summary"))
    results.append("summary",
                   summarise(results, static_cast<int64_t>(targets.size()), options, source));
  sidecar.finish(targets);
  results.finish();
  sidecar.remove_partial();
  return results.record("summary");
}

}  // namespace stuffed::eval
