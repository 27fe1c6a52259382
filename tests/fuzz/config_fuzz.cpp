// config.json as the families read it: a hostile one beside a sound checkpoint of every layout.
#include "tests/fuzz/checkpoints.h"

namespace stuffed::fuzz {

namespace {

/// One of each layout, without its own config.
const std::vector<Checkpoint>& checkpoints() {
  static const std::vector<Checkpoint> all = [] {
    std::vector<Checkpoint> made;
    for (const auto& file :
         std::filesystem::directory_iterator(STUFFED_SOURCE_DIR "/tests/fuzz/corpus/shapes"))
      if (file.path().extension() == ".json")  // what a fuzz run adds has none
        made.push_back(corpus_checkpoint(file.path()));
    return made;
  }();
  return all;
}

}  // namespace

void fuzz_config(const uint8_t* data, size_t size) {
  io::json config;
  may_refuse([&] { config = io::parse_json(as_text(data, size), "config.json"); });
  if (!config.is_object())
    return;
  for (Checkpoint checkpoint : checkpoints())
    may_refuse([&] {
      checkpoint.config = config;
      const auto model = unloaded_model(checkpoint);
      // Shapes decide what a model costs; a config may only say how they are to be read.
      if (model->state_elements() > int64_t{1} << 24)
        broken("a config that blows up the state");
    });
}

}  // namespace stuffed::fuzz
