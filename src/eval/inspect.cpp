#include "stuffed/eval/inspect.h"

#include <ATen/ATen.h>

#include "src/eval/fit/laws.h"
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/tokenizer.h"
#include "stuffed/models/registry.h"
#include "stuffed/models/vocabulary.h"

namespace stuffed::eval {

namespace {

using io::json;

json describe_tensors(const io::TensorFile& weights) {
  std::map<std::string, int64_t> by_dtype;
  json tensors = json::object();
  for (const auto& [name, entry] : weights.entries()) {
    const std::string dtype = at::toString(entry.dtype);
    ++by_dtype[dtype];
    tensors[name] = {{"shape", entry.shape}, {"dtype", dtype}};
  }
  return {{"by_dtype", by_dtype}, {"shapes", tensors}};
}

json describe_files(const io::TensorFile& weights) {
  json files = json::array();
  for (const auto& file : weights.files())
    files.push_back({{"file", file.filename().string()},
                     {"bytes", std::filesystem::file_size(file)},
                     {"sha256", sha256_file(file)}});
  return files;
}

/// A checkpoint without a tokenizer is nothing unusual: the reason is part of the answer.
json describe_tokenizer(const std::filesystem::path& model,
                        const std::string& path,
                        std::optional<int64_t>& deciding) {
  try {
    const auto tokenizer = path.empty() ? io::find_tokenizer(model) : io::load_tokenizer(path);
    deciding = deciding_ids(*tokenizer);
    return {{"kind", tokenizer->kind()},
            {"source", tokenizer->source()},
            {"vocab", tokenizer->vocab_size()},
            {"bos", tokenizer->bos() ? json(*tokenizer->bos()) : json(nullptr)},
            {"sha256", tokenizer->hash()}};
  } catch (const Error& error) {
    if (!path.empty())
      throw;
    return {{"kind", nullptr}, {"reason", error.what()}};
  }
}

json or_null(std::optional<double> tokens) {
  return tokens ? json(*tokens) : json();
}

}  // namespace

PaperFits paper_fits(int64_t state_elements) {
  const double millions = static_cast<double>(state_elements) / fitting::kElements;
  const auto if_any = [millions](Law law) {
    const double tokens = fitting::kTokens * fitting::paper_curve(law)(millions);
    return tokens > 0 ? std::optional(tokens) : std::nullopt;
  };
  return {.forget_tokens = if_any(Law::Forget),
          .recall_tokens = if_any(Law::Recall),
          .extrapolated = millions > 12.95};
}

json inspect(const std::filesystem::path& path,
             const std::string& tokenizer,
             const std::string& gated_norm) {
  Reading reading;
  const json found_tokenizer = describe_tokenizer(path, tokenizer, reading.tokenizer_ids);
  if (!gated_norm.empty())
    reading.gated_norm = gated_norm;
  const Skeleton skeleton = open_skeleton(path, reading);
  const RecurrentLM& model = *skeleton.model;
  const ModelConfig& config = model.config();
  const int64_t with_columns = model.state_elements();
  const PaperFits fits = paper_fits(with_columns);
  return {{"schema", "stuffed.inspect"},
          {"version", 1},
          {"model", path.string()},
          {"family", config.family},
          {"layout", config.layout},
          {"why", config.why},
          {"parameters", config.parameters},
          {"d_model", config.d_model},
          {"layers", config.layers},
          {"heads", config.heads},
          {"key_width", config.key_width},
          {"value_width", config.value_width},
          {"vocab", config.vocab},
          {"padded_vocab", config.padded_vocab},
          {"tensors", describe_tensors(skeleton.files.tensors)},
          {"files", describe_files(skeleton.files.tensors)},
          {"model_hash", config.hash},
          {"tokenizer", found_tokenizer},
          {"config",
           {{"keys", config.config_kind.empty() ? json() : json(config.config_kind)},
            {"unknown_keys", config.unknown_keys}}},
          {"gated_norm", config.gated_norm.empty() ? json() : json(config.gated_norm)},
          {"warnings", config.warnings},
          {"state",
           {{"recurrence_elements", model.recurrent_elements()},
            {"recurrence_bytes_f32", 4 * model.recurrent_elements()},
            {"with_columns_elements", with_columns},
            {"with_columns_bytes_f32", 4 * with_columns}}},
          {"paper_fits",
           {{"source", "arXiv:2410.07145, state with W-1 convolution columns or shift rows"},
            {"forget_training_tokens", or_null(fits.forget_tokens)},
            {"recall_tokens", or_null(fits.recall_tokens)},
            {"extrapolated", fits.extrapolated},
            {"caution", "fitted to Mamba-2 models of at most 12.9 M state elements"}}}};
}

}  // namespace stuffed::eval
