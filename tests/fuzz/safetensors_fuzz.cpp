// Maps the input as a file and reads every element of every tensor that a safetensors file claims.
#include "tests/fuzz/tensors.h"

namespace stuffed::fuzz {

void fuzz_safetensors(const uint8_t* data, size_t size) {
  with_file(data, size, [](const std::filesystem::path& path) {
    const io::MappedFile file(path);
    read_every_element(file, io::read_safetensors(file));
  });
}

}  // namespace stuffed::fuzz
