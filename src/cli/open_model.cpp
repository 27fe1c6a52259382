#include "src/cli/open_model.h"

#include <cstdio>

#include <ATen/ATen.h>
#include <ATen/Context.h>

#include "kernels/decay_scan/decay_scan_views.h"
#include "src/cli/print.h"
#include "stuffed/core/cuda_library.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/eval/fit.h"
#include "stuffed/io/hub_cache.h"
#include "stuffed/io/provenance.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/models/one_token.h"
#include "stuffed/models/vocabulary.h"
#include "stuffed/ops/op.h"

namespace stuffed::cli {

namespace {

/// The limits of clamp_norm: Frobenius norms [layers, heads], recorded by state-stats.
Tensor read_limits(const std::string& path, const RecurrentLM& model) {
  check(!path.ends_with(".jsonl"), Error::Kind::Input,
        "{}: is a journal; the limits of clamp_norm are in the arrays beside it, a .safetensors "
        "file",
        path);
  const io::TensorFile file = io::TensorFile::open(path);
  check(file.has("limits"), Error::Kind::Input,
        "{}: has no tensor 'limits' [layers, heads]; state-stats writes it among its arrays when "
        "it is given --train-len, and neither --layers nor --heads",
        path);
  const Tensor limits = file.load("limits").to(at::kDouble);
  const ModelConfig& config = model.config();
  check(limits.sizes() == at::IntArrayRef({config.layers, config.heads}), Error::Kind::Input,
        "{}: tensor 'limits' has shape [{}], but this model's layers and heads are [{}, {}]; "
        "record them with state-stats on the same model",
        path, fmt::join(limits.sizes(), ", "), config.layers, config.heads);
  return limits.clone();  // the file may go
}

/// Calls `on_file` with every file that mitigations read, by the name it was given.
void visit_files(const std::vector<std::string>& mitigations,
                 const std::function<void(const std::string& file)>& on_file) {
  build_recurrence({.mitigations = mitigations, .read_limits = [&](const std::string& file) {
                      on_file(file);
                      return at::zeros({1, 1});
                    }});
}

/// Hashes of those files.
io::json mitigation_files(const std::vector<std::string>& mitigations) {
  io::json files = io::json::object();
  visit_files(mitigations, [&](const std::string& file) { files[file] = sha256_file(file); });
  return files;
}

}  // namespace

std::shared_ptr<const RecurrentLM> ModelCache::open(const ModelOptions& options,
                                                    const io::Tokenizer* tokenizer) {
  const at::Device device = parse_device(options.device);
  const Reading reading = reading_of(options, tokenizer);
  const std::string key =
      fmt::format("{}\n{}\n{}\n{}\n{}", options.model, device.str(), options.dtype,
                  options.gated_norm, reading.tokenizer_ids.value_or(0));
  if (key != key_) {
    model_.reset();  // first, so that two never share the memory
    key_.clear();    // nor is it taken for loaded if this goes wrong
    is_loading_ = true;
    model_ = load_model(
        options.model, {.dtype = parse_dtype(options.dtype), .device = device, .reading = reading});
    is_loading_ = false;
    say_warnings(model_->config());
    key_ = key;
  }
  return model_;
}

Reading reading_of(const ModelOptions& options, const io::Tokenizer* tokenizer) {
  Reading reading;
  if (!options.gated_norm.empty())
    reading.gated_norm = options.gated_norm;
  if (tokenizer != nullptr)
    reading.tokenizer_ids = deciding_ids(*tokenizer);
  else if (!options.tokenizer.empty())
    reading.tokenizer_ids = deciding_ids(*open_tokenizer(options));
  else
    reading.tokenizer_ids = deciding_ids(std::filesystem::path(options.model));
  return reading;
}

void say_warnings(const ModelConfig& config) {
  for (const std::string& warning : config.warnings)
    std::fputs(fmt::format("warning: {}\n", warning).c_str(), stderr);
}

io::json provenance_of(const std::vector<std::string>& command_line,
                       const ModelOptions& options,
                       const RecurrentLM& model) {
  io::json provenance = io::provenance(command_line, model.device());
  const auto snapshot = io::snapshot_of(options.model);
  provenance["model"] = snapshot ? snapshot->name : options.model;
  if (snapshot)
    provenance["model_commit"] = snapshot->commit;
  provenance.update(eval::facts_of_model(model, options.model));
  const ModelConfig& config = model.config();
  if (!config.warnings.empty())
    provenance["model_warnings"] = config.warnings;
  if (!config.unknown_keys.empty())
    provenance["unknown_config_keys"] = config.unknown_keys;
  if (!config.gated_norm.empty())
    provenance["gated_norm"] = config.gated_norm;
  return provenance;
}

at::Device parse_device(const std::string& name) {
  const bool has_gpu = cuda_library() && at::hasCUDA() && at::getNumGPUs() > 0;
  if (name == "auto" && has_nvidia_driver() && !cuda_library())
    print(stderr, "warning: running on the CPU: {}\n", why_no_cuda());
  if (name == "cpu" || (name == "auto" && !has_gpu))
    return at::kCPU;
  check(has_gpu, Error::Kind::Unsupported, "--device {}: {}; try --device cpu", name,
        cuda_library() ? "no GPU is visible" : why_no_cuda());
  const at::Device device(name == "auto" || name == "cuda" ? "cuda:0" : name);
  check(device.index() < static_cast<int>(at::getNumGPUs()), Error::Kind::Unsupported,
        "--device {}: only {} {} visible", name, at::getNumGPUs(),
        at::getNumGPUs() == 1 ? "GPU is" : "GPUs are");
  return device;
}

std::shared_ptr<const Recurrence> open_rule(const ModelOptions& options,
                                            const RecurrentLM& model,
                                            Observer* observer,
                                            InnerObserver* inner_observer) {
  return build_recurrence(
      {.mitigations = options.mitigations,
       .impl = ops::parse_impls(options.impl).scan,
       .state_dtype = parse_dtype(options.state_dtype),
       .observer = observer,
       .read_limits = [&model](const std::string& file) { return read_limits(file, model); }},
      inner_observer);
}

void check_stream_length(const ModelOptions& options, int64_t tokens) {
  if (!options.force)
    check_cost(options.mitigations, tokens);
}

std::shared_ptr<const io::Tokenizer> open_tokenizer(const ModelOptions& options,
                                                    const io::TokenizerOptions& how) {
  if (!options.tokenizer.empty())
    return io::load_tokenizer(options.tokenizer, how);
  check(!options.model.empty(), Error::Kind::Usage,
        "a tokenizer is needed; give --tokenizer or --model");
  std::error_code ignored;
  check(std::filesystem::exists(options.model, ignored), Error::Kind::Input,
        "{}: no such file or folder (--model)", options.model);
  return io::find_tokenizer(options.model, how);
}

std::string impl_that_runs(const ModelOptions& options, const RecurrentLM& model, int64_t tokens) {
  ops::Impls impls = ops::parse_impls(options.impl);
  const Impl asked = impls.scan;
  Watch watch([&](Where, const ScanInputs& in, const LayerState& after) {
    impls.scan = ops::choose(kernels::repeat_token(in, tokens), after.recurrent, asked);
  });
  feed_one_token(model, *open_rule(options, model, &watch));
  return impls.name();
}

void check_vocabulary(const io::Tokenizer& tokenizer, const RecurrentLM& model) {
  check(tokenizer.vocab_size() <= model.config().padded_vocab, Error::Kind::Input,
        "{}: makes ids up to {}, but the model has {} embeddings; it belongs to another model (see "
        "--tokenizer)",
        tokenizer.source(), tokenizer.vocab_size() - 1, model.config().padded_vocab);
}

io::OutputGuard guard_inputs(const ModelOptions& options) {
  io::OutputGuard guard;
  guard.reads_model("--model", options.model);
  if (options.tokenizer != "bytes")
    guard.reads("--tokenizer", options.tokenizer);
  visit_files(options.mitigations,
              [&](const std::string& file) { guard.reads("--mitigation", file); });
  return guard;
}

io::json describe(const ModelOptions& options, const RecurrentLM& model) {
  const ModelConfig& config = model.config();
  io::json run = {
      {"model", {{"sha256", config.hash}, {"family", config.family}, {"layout", config.layout}}},
      {"device", model.device().is_cuda() ? "cuda" : "cpu"},
      {"dtype", dtype_name(model.dtype())},
      {"state_dtype", options.state_dtype},
      {"impl", options.impl},
      {"segment_tokens", options.segment},
      {"mitigations", options.mitigations},
      {"seed", options.seed},
  };
  if (!options.gated_norm.empty())
    run["gated_norm"] = options.gated_norm;
  if (const io::json files = mitigation_files(options.mitigations); !files.empty())
    run["mitigation_files"] = files;
  return run;
}

}  // namespace stuffed::cli
