// From options to a model that runs: device, weights, update rule, tokenizer, and what the header of
// its results says of them.
#pragma once
#include <memory>
#include <optional>
#include <string>

#include "src/cli/options.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/tokenizer.h"
#include "stuffed/models/registry.h"
#include "stuffed/recurrence/inner_observer.h"

namespace stuffed::cli {

/// Keeps the model that was opened last, so that commands run in turn over one model load it once.
class ModelCache {
 public:
  /// Loads the model, unless it is the one loaded last with the same options; says its warnings.
  /// `tokenizer` is the run's, if it has one.
  std::shared_ptr<const RecurrentLM> open(const ModelOptions& options,
                                          const io::Tokenizer* tokenizer = nullptr);
  /// The model that is loaded, or null.
  const RecurrentLM* loaded() const { return model_.get(); }
  /// Whether open() was left in the middle.
  bool is_loading() const { return is_loading_; }

 private:
  std::string key_;
  std::shared_ptr<const RecurrentLM> model_;
  bool is_loading_ = false;
};

/// What decides the model's numbers beside its files: --gated-norm, and the tokenizer given, or the
/// one in the model's folder.
Reading reading_of(const ModelOptions& options, const io::Tokenizer* tokenizer = nullptr);

/// The model's warnings, on stderr.
void say_warnings(const ModelConfig& config);

/// io::provenance(), and what is to be known of how the model's files were taken.
io::json provenance_of(const std::vector<std::string>& command_line,
                       const ModelOptions& options,
                       const RecurrentLM& model);

/// Errors  Unsupported if the device asked for is not there
at::Device parse_device(const std::string& name);

/// The update rule, with its mitigations and observers (not owned; null: none) of the model's own
/// inputs and of what the mitigations make of them.
/// Errors  Usage for a mitigation that is not understood; Input if the limits clamp_norm names are
/// missing, no limits, or another model's
std::shared_ptr<const Recurrence> open_rule(const ModelOptions& options,
                                            const RecurrentLM& model,
                                            Observer* observer = nullptr,
                                            InnerObserver* inner_observer = nullptr);

/// Throws Usage if a mitigation would take a stream of `tokens` one token at a time, that is too
/// long for it, and --force was not given. 0 tokens: as many as there are, which is not checked.
void check_stream_length(const ModelOptions& options, int64_t tokens);

/// --tokenizer, or the one in the model's folder. Throws Input saying what was looked for.
std::shared_ptr<const io::Tokenizer> open_tokenizer(const ModelOptions& options,
                                                    const io::TokenizerOptions& how = {});

/// The program that runs this model's recurrence over a segment of so many tokens: "step", "tiled",
/// "aten", "reference" or "cuda"; with the forms that --impl forces on other operations, if any:
/// "scan=tiled,norm=reference". Feeds the model one token to find out.
std::string impl_that_runs(const ModelOptions& options, const RecurrentLM& model, int64_t tokens);

/// Throws Input if the tokenizer can make ids the model does not know.
void check_vocabulary(const io::Tokenizer& tokenizer, const RecurrentLM& model);

/// Guards the files these options read: model, tokenizer, and those of mitigations.
/// Errors  Usage for a mitigation that is not understood
io::OutputGuard guard_inputs(const ModelOptions& options);

/// What decides a run's numbers, for the header of its results: model (hash, family, layout),
/// device kind, dtypes, implementation, segment, mitigations and the hashes of their files, seed.
io::json describe(const ModelOptions& options, const RecurrentLM& model);

}  // namespace stuffed::cli
