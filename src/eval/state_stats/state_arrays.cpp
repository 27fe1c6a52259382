#include "state_arrays.h"

#include <limits>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::eval {

namespace fs = std::filesystem;

fs::path StateArrays::part(int64_t document) const {
  return sidecar_.part(fmt::format("document={}.safetensors", document));
}

void StateArrays::keep(int64_t documents) const {
  for (int64_t i = 0; i < documents; ++i)
    check(fs::exists(part(i)), Error::Kind::Input,
          "{}: is missing, but the journal holds document {}; start anew with --overwrite",
          part(i).string(), i);
}

void StateArrays::write_document(int64_t document, const NamedTensors& arrays) const {
  io::write_safetensors(part(document), arrays);
}

NamedTensors StateArrays::read_document(int64_t document) const {
  const io::TensorFile file = io::TensorFile::open(part(document));
  NamedTensors arrays;
  for (const auto& [name, entry] : file.entries())
    arrays.emplace_back(name, file.load(name));
  return arrays;
}

void StateArrays::finish(int64_t documents,
                         const NamedTensors& more,
                         const std::map<std::string, std::string>& metadata) const {
  std::map<std::string, std::vector<Tensor>> by_name;
  for (int64_t i = 0; i < documents; ++i)
    for (const auto& [name, array] : read_document(i))
      by_name[name].push_back(array);
  NamedTensors all = more;
  for (const auto& [name, arrays] : by_name) {
    if (static_cast<int64_t>(arrays.size()) < documents)
      continue;  // a document of an older run lacks it
    int64_t longest = 0;
    for (const Tensor& array : arrays)
      longest = std::max(longest, array.size(0));
    std::vector<Tensor> padded;
    for (const Tensor& array : arrays) {
      std::vector<int64_t> missing = array.sizes().vec();
      missing[0] = longest - array.size(0);
      padded.push_back(
          missing[0] == 0
              ? array
              : at::cat({array, at::full(missing, std::numeric_limits<double>::quiet_NaN(),
                                         array.options())}));
    }
    all.emplace_back(name, padded.size() == 1 ? padded[0].unsqueeze(0) : at::stack(padded));
  }
  sidecar_.write(all, metadata);
}

}  // namespace stuffed::eval
