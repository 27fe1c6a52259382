// Maps the input as a file and reads every element of every tensor that a PyTorch zip claims.
#include "src/io/tensor_container.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stuffed::fuzz::with_file(data, size, [](const std::filesystem::path& path) {
    const stuffed::io::MappedFile file(path);
    for (const auto& [name, tensor] : stuffed::io::read_torch_zip(file).tensors) {
      if (tensor.offset > file.bytes().size() ||
          tensor.extent > file.bytes().size() - tensor.offset)
        std::abort();
      unsigned sum = 0;
      for (const std::byte byte : file.bytes().subspan(tensor.offset, tensor.extent))
        sum += static_cast<unsigned>(byte);
      asm volatile("" : : "r"(sum));  // the reads are the test: keep them
    }
  });
  return 0;
}
