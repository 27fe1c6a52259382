// Maps the input as a file and reads every element of every tensor that a PyTorch zip claims.
#include "tests/fuzz/tensors.h"

namespace stuffed::fuzz {

void fuzz_torch_zip(const uint8_t* data, size_t size) {
  with_file(data, size, [](const std::filesystem::path& path) {
    const io::MappedFile file(path);
    read_every_element(file, io::read_torch_zip(file));
  });
}

}  // namespace stuffed::fuzz
