#include "src/eval/fit/model_facts.h"

#include "stuffed/core/error.h"
#include "stuffed/io/hub_cache.h"
#include "stuffed/io/journal_ends.h"
#include "stuffed/io/record_fields.h"
#include "stuffed/models/registry.h"

namespace stuffed::eval {

namespace {

namespace fs = std::filesystem;
using io::json;

constexpr int64_t kMostElements = int64_t{1} << 50;

json describe_state(const RecurrentLM& model) {
  int64_t recurrence = 0, convolution = 0, shift = 0, width = 0;
  for (const LayerState& layer : model.initial_state(1).layers) {
    recurrence += layer.recurrent.numel();
    if (layer.conv.defined()) {
      convolution += layer.conv.numel();
      width = layer.conv.size(-1) + 1;
    }
    if (layer.shift.defined())
      shift += layer.shift.numel();
  }
  return {{"recurrence_elements", recurrence},
          {"convolution_elements", convolution},
          {"convolution_width", width},
          {"shift_elements", shift}};
}

/// Of the journal that `train` leaves beside the model; null if there is none that can be read.
json describe_training(const fs::path& model) {
  const fs::path journal = model / "train.jsonl";
  std::error_code ignored;
  if (!fs::is_regular_file(journal, ignored))
    return {};
  try {
    const json config = io::look_into_journal(journal).header.config;
    return {{"length_tokens", io::read_integer(config, "length_tokens", 1)},
            {"seed", config.at("seed").get<uint64_t>()}};
  } catch (const Error&) {  // somebody else's file of that name says nothing of the model
    return {};
  } catch (const json::exception&) {
    return {};
  }
}

}  // namespace

json facts_of_model(const RecurrentLM& model, const fs::path& path) {
  json facts = {{"state", describe_state(model)}};
  if (json training = describe_training(path); !training.is_null())
    facts["training"] = std::move(training);
  return facts;
}

namespace fitting {

namespace {

json facts_of_files(const std::string& model,
                    const std::string& sha256,
                    const std::string& result) {
  check(!model.empty(), Error::Kind::Input,
        "{}: does not say how large its model's state is, nor which model it was; measure it again",
        result);
  const fs::path path = io::find_checkpoint(model, "FILES");
  std::error_code ignored;
  check(fs::exists(path, ignored), Error::Kind::Input,
        "{}: does not say how large its model's state is, and the model is no longer at {}; put it "
        "back, or measure it again",
        result, model);
  const Skeleton skeleton = open_skeleton(path);
  check(skeleton.model->config().hash == sha256, Error::Kind::Input,
        "{}: does not say how large its model's state is, and {} is another model by now; measure "
        "it again",
        result, model);
  return facts_of_model(*skeleton.model, path);
}

}  // namespace

int64_t StateSize::elements(StateRule rule) const {
  if (rule == StateRule::Recurrence)
    return recurrence;
  const bool is_whole = rule == StateRule::WholeWidth && convolution_width > 1;
  return recurrence + shift +
         (is_whole ? convolution / (convolution_width - 1) * convolution_width : convolution);
}

ModelFacts read_facts(const json& facts,
                      const std::string& model,
                      const std::string& sha256,
                      const std::string& result) {
  const json known = facts.contains("state") ? facts : facts_of_files(model, sha256, result);
  const json& state = known.at("state");
  const auto elements = [&](const char* field) {
    return io::read_integer(state, field, 0, kMostElements);
  };
  ModelFacts found{.state = {.recurrence = elements("recurrence_elements"),
                             .convolution = elements("convolution_elements"),
                             .shift = elements("shift_elements"),
                             .convolution_width = elements("convolution_width")}};
  if (known.contains("training")) {
    found.train_len_tokens = io::read_integer(known.at("training"), "length_tokens", 1);
    found.seed = known.at("training").at("seed").get<uint64_t>();
  }
  return found;
}

}  // namespace fitting

}  // namespace stuffed::eval
