// A saved state: what is accepted has the model's shapes.
#include "src/models/checkpoint.h"
#include "stuffed/models/state_file.h"
#include "tests/fuzz/checkpoints.h"

namespace stuffed::fuzz {

namespace {

const RecurrentLM& model() {
  static const auto made = [] {
    const Checkpoint checkpoint =
        corpus_checkpoint(STUFFED_SOURCE_DIR "/tests/fuzz/corpus/shapes/mamba2-hf.json");
    const auto recognition = mamba2_family.recognise(checkpoint);
    return mamba2_family.make(checkpoint, recognition.value());
  }();
  return *made;
}

}  // namespace

void fuzz_saved_state(const uint8_t* data, size_t size) {
  const StateTag tag{.model_hash = "c0ffee",
                     .family = "mamba2",
                     .dtype = "f32",
                     .state_dtype = "f32",
                     .mitigations = "none"};  // the seeds'
  with_file(data, size, [&](const std::filesystem::path& path) {
    const SavedState saved = load_state(path, tag, model());
    const State fresh = model().initial_state(1);
    if (saved.state.position < 0 || saved.state.layers.size() != fresh.layers.size())
      broken("a state of another model");
    for (size_t i = 0; i < fresh.layers.size(); ++i)
      if (saved.state.layers[i].recurrent.sizes() != fresh.layers[i].recurrent.sizes() ||
          saved.state.layers[i].conv.sizes() != fresh.layers[i].conv.sizes())
        broken("a state of other shapes");
  });
}

}  // namespace stuffed::fuzz
