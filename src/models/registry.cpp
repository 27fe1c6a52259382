#include "stuffed/models/registry.h"

#include <algorithm>
#include <array>

#include <ATen/ATen.h>

#include "checkpoint.h"
#include "filled_model.h"
#include "stuffed/core/background.h"
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/models/family.h"

namespace stuffed {

namespace {

/// Of what decides the numbers: every weight file, and the config.
std::string checkpoint_hash(const OpenCheckpoint& files) {
  Sha256 hash;
  for (const auto& file : files.tensors.files()) {
    const std::string digest = sha256_file(file);
    hash.update(digest.data(), digest.size());
  }
  const Checkpoint& checkpoint = files.checkpoint;
  const std::string config = checkpoint.config.is_null() ? "" : sha256_file(checkpoint.config_path);
  hash.update(config.data(), config.size());
  return hash.hex();
}

std::string first_names(const io::TensorDirectory& weights) {
  std::vector<std::string> names;
  for (const auto& [name, entry] : weights.entries())
    if (names.size() < 3)
      names.push_back("'" + name + "'");
  return fmt::format("{}", fmt::join(names, ", "));
}

/// What a config.json calls its model, for messages.
std::string config_says(const Checkpoint& checkpoint) {
  for (const char* key : {"model_type", "architectures"})
    if (checkpoint.config.is_object() && checkpoint.config.contains(key))
      return fmt::format("; {} says {} {}", checkpoint.config_path.filename().string(), key,
                         checkpoint.config[key].dump().substr(0, 100));
  return "";
}

/// Where the expected shapes come from, for messages.
std::string shape_hint(const ModelConfig& config) {
  return fmt::format("{} in the {} layout: d_model={}, layers={}, heads={}", config.family,
                     config.layout, config.d_model, config.layers, config.heads);
}

}  // namespace

/// The one place that sees a model's insides while it is being put together.
class ModelBuilder {
 public:
  static std::unique_ptr<RecurrentLM> load(const std::filesystem::path& path,
                                           const LoadOptions& options) {
    const OpenCheckpoint files = OpenCheckpoint::open(path, options.reading);
    auto [model, map] = recognise(files.checkpoint);
    Background<std::string> hash([&files] { return checkpoint_hash(files); });
    set_device_and_dtype(*model, options);
    ParameterLoader loader(files.tensors, map, options.inference ? model->dtype_ : at::kFloat,
                           options.device, shape_hint(model->config_));
    model->visit(loader);
    loader.finish();
    finish(*model, options);
    model->config_.hash = hash.get();
    return std::move(model);
  }

  static void record_hash(RecurrentLM& model, const OpenCheckpoint& files) {
    model.config_.hash = checkpoint_hash(files);
  }

  static std::unique_ptr<RecurrentLM> unloaded(const Checkpoint& checkpoint) {
    auto [model, map] = recognise(checkpoint);
    // Shapes without data: a few bytes may claim a state of any size, which nobody asked to hold.
    model->device_ = at::kMeta;
    ParameterCounter counter(checkpoint.weights, map, shape_hint(model->config_));
    model->visit(counter);
    counter.finish();
    model->config_.parameters = counter.elements();
    return std::move(model);
  }

  static std::unique_ptr<RecurrentLM> filled(const Checkpoint& checkpoint,
                                             const std::function<void(RecurrentLM&)>& fill,
                                             const LoadOptions& options) {
    auto model = recognise(checkpoint).first;
    set_device_and_dtype(*model, options);
    if (!fill)
      return model;
    fill(*model);
    finish(*model, options);
    return model;
  }

  static void set_dtype(RecurrentLM& model, at::ScalarType dtype) { model.dtype_ = dtype; }

  static std::unique_ptr<RecurrentLM> create(const std::string& name,
                                             const io::json& config,
                                             uint64_t seed,
                                             const LoadOptions& options) {
    const auto family =
        std::ranges::find_if(families(), [&](const Family* f) { return f->name == name; });
    check(family != families().end() && (*family)->make_new, Error::Kind::Usage,
          "family '{}' cannot be built from a configuration; those that can: {}", name,
          fmt::join(family_names(/*new_only=*/true), ", "));
    auto model = (*family)->make_new(config);
    model->config_.family = name;
    set_device_and_dtype(*model, options);
    ParameterInitialiser initialiser(seed, options.device);
    model->visit(initialiser);
    model->initialise_gates(seed);
    model->config_.hash = sha256(fmt::format("{} {} {}", name, config.dump(), seed));
    finish(*model, options);
    return model;
  }

 private:
  static std::pair<std::unique_ptr<RecurrentLM>, WeightMap> recognise(
      const Checkpoint& checkpoint) {
    for (const Family* family : families()) {
      const auto recognition = family->recognise(checkpoint);
      if (!recognition)
        continue;
      const ConfigTable& table = family->config_table(checkpoint, *recognition);
      const std::vector<std::string> unknown = check_config_keys(checkpoint, family->name, table);
      auto model = family->make(checkpoint, *recognition);
      describe(model->config_, checkpoint, *family, *recognition, unknown);
      return {std::move(model), family->weight_map(checkpoint, *recognition)};
    }
    fail(Error::Kind::Input,
         "{}: no known model family has such tensors ({} of them, {}, ...{}); known: {}",
         checkpoint.weights.path().string(), checkpoint.weights.entries().size(),
         first_names(checkpoint.weights), config_says(checkpoint), fmt::join(family_names(), ", "));
  }

  static void describe(ModelConfig& config,
                       const Checkpoint& checkpoint,
                       const Family& family,
                       const Recognition& recognition,
                       const std::vector<std::string>& unknown) {
    config.family = family.name;
    config.layout = recognition.layout;
    config.why = recognition.why;
    if (checkpoint.config.is_object())
      config.config_kind = family.config_table(checkpoint, recognition).kind;
    config.unknown_keys = unknown;
    config.warnings.insert(config.warnings.begin(), checkpoint.warnings.begin(),
                           checkpoint.warnings.end());
    if (!unknown.empty())
      config.warnings.push_back(fmt::format(
          "{}: {} not known in {} and not honoured: {}; if it changes numbers, these are not the "
          "checkpoint's",
          checkpoint.config_path.string(), unknown.size() == 1 ? "this key is" : "these keys are",
          config.family, fmt::join(unknown, ", ")));
    check(!checkpoint.reading.gated_norm || family.has_gated_norm_choice, Error::Kind::Usage,
          "--gated-norm is Mamba-2's; {} is of the family {}", checkpoint.path.string(),
          config.family);
  }

  static void set_device_and_dtype(RecurrentLM& model, const LoadOptions& options) {
    model.device_ = options.device;
    model.dtype_ = options.dtype.value_or(options.device.is_cpu() ? at::kFloat : at::kBFloat16);
    model.is_trained_ = !options.inference;
  }

  static void finish(RecurrentLM& model, const LoadOptions& options) {
    ParameterList list;
    model.visit(list);
    for (const auto& item : list.items) {
      model.config_.parameters += item.home->numel();
      if (options.inference && item.role == Role::Conv)
        model.conv_taps_.push_back(*item.home);
      // A new model's matrices are made in f32; inference wants them in the model's type.
      if (options.inference && (item.role == Role::Matrix || item.role == Role::Embedding))
        *item.home = item.home->to(model.dtype_);
    }
    model.derive();
    if (!options.inference)
      return;
    MatrixPacker packer;
    model.visit(packer);
    packer.matrix("", model.head_.linear, {});  // a tied head is no parameter of its own
  }
};

std::unique_ptr<RecurrentLM> load_model(const std::filesystem::path& path,
                                        const LoadOptions& options) {
  return ModelBuilder::load(path, options);
}

std::unique_ptr<RecurrentLM> unloaded_model(const Checkpoint& checkpoint) {
  return ModelBuilder::unloaded(checkpoint);
}

std::unique_ptr<RecurrentLM> filled_model(const Checkpoint& checkpoint,
                                          const std::function<void(RecurrentLM&)>& fill,
                                          const LoadOptions& options) {
  return ModelBuilder::filled(checkpoint, fill, options);
}

Skeleton open_skeleton(const std::filesystem::path& path, const Reading& reading) {
  Skeleton skeleton{.files = OpenCheckpoint::open(path, reading), .model = nullptr};
  skeleton.model = ModelBuilder::unloaded(skeleton.files.checkpoint);
  ModelBuilder::record_hash(*skeleton.model, skeleton.files);
  return skeleton;
}

std::unique_ptr<RecurrentLM> new_model(const std::string& family,
                                       const io::json& config,
                                       uint64_t seed,
                                       const LoadOptions& options) {
  return ModelBuilder::create(family, config, seed, options);
}

InF32::InF32(RecurrentLM& model) : model_(model), dtype_(model.dtype()) {
  ParameterList list;
  model.visit(list);
  for (const auto& item : list.items)
    if (item.role == Role::Matrix || item.role == Role::Embedding) {
      check(item.home->defined(), Error::Kind::Internal, "tensor '{}' was packed for inference",
            item.name);
      originals_.emplace_back(item.home, *item.home);
    }
  std::vector<Tensor> wide;  // all of them first: nothing is changed if there is not enough memory
  for (const auto& [home, original] : originals_)
    wide.push_back(original.to(at::kFloat));
  for (size_t i = 0; i < wide.size(); ++i)
    *originals_[i].first = wide[i];
  ModelBuilder::set_dtype(model, at::kFloat);
}

InF32::~InF32() {
  for (const auto& [home, original] : originals_)
    *home = original;
  ModelBuilder::set_dtype(model_, dtype_);
}

void save_model(RecurrentLM& model, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check(!error, Error::Kind::Output, "{}: cannot be created: {}", folder.string(), error.message());
  const io::json config = model.save_config();
  ParameterList list;
  model.visit(list);
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& item : list.items) {
    check(item.home->defined(), Error::Kind::Internal,
          "tensor '{}' was packed for inference and cannot be saved", item.name);
    tensors.push_back(model.saved(item.name, item.home->detach().to(at::kCPU)));
  }
  io::write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
  io::write_text(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace stuffed
