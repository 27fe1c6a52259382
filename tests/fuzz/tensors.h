// Reads every element of every tensor that a container claims.
#pragma once
#include "src/io/containers/tensor_container.h"
#include "tests/fuzz/fuzz.h"

namespace stuffed::fuzz {

inline void read_every_element(const io::MappedFile& file, const io::TensorContainer& container) {
  for (const auto& [name, tensor] : container.tensors) {
    if (tensor.offset > file.bytes().size() || tensor.extent > file.bytes().size() - tensor.offset)
      broken("a tensor outside its file");
    unsigned sum = 0;
    for (const std::byte byte : file.bytes().subspan(tensor.offset, tensor.extent))
      sum += static_cast<unsigned>(byte);
    asm volatile("" : : "r"(sum));  // the reads are the test: keep them
  }
}

}  // namespace stuffed::fuzz
