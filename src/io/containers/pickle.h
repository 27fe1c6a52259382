// Reads the pickle of a PyTorch state dict without executing it: an interpreter of the opcodes such
// a file holds, which knows four kinds of globals and calls none.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include <c10/core/ScalarType.h>

namespace stuffed::io {

struct PickledTensor {
  std::string_view name;
  std::string_view storage_key;  // of the zip entry data/<key>
  at::ScalarType dtype;          // the storage's
  int64_t storage_count = 0;     // elements the storage is said to hold
  int64_t storage_offset = 0;    // in elements
  std::vector<int64_t> shape;
  std::vector<int64_t> stride;  // in elements
};

/// The tensors of a pickled dict (or OrderedDict) of names to tensors, in its order. Numbers are as
/// the pickle says: >= 0, but not checked against any storage. Texts are views of `pickle`.
/// Errors  Input, naming `file`: an opcode or a global that a state dict does not need, a truncated
///         or inconsistent pickle, a value that is not a tensor, a name used twice
/// Cost    O(pickle bytes) in time and memory; a pickle of more than 8 MiB is refused
std::vector<PickledTensor> read_state_dict(std::span<const std::byte> pickle,
                                           std::string_view file);

}  // namespace stuffed::io
