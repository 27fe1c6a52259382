#include "retention_arrays.h"

#include <vector>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::eval {

namespace fs = std::filesystem;

fs::path RetentionArrays::part(int64_t document) const {
  return sidecar_.part(fmt::format("document={}.safetensors", document));
}

void RetentionArrays::keep(int64_t documents) const {
  if (!sidecar_.exists())
    return;
  for (int64_t i = 0; i < documents; ++i) {
    // Where older versions kept it.
    sidecar_.adopt(fs::path(sidecar_.path()).concat(fmt::format(".document-{}.partial", i)),
                   part(i).filename().string());
    check(fs::exists(part(i)), Error::Kind::Input,
          "{}: is missing, but the journal holds its document; start anew with --overwrite",
          part(i).string());
  }
}

void RetentionArrays::save(int64_t document, Named arrays) {
  if (!sidecar_.exists())
    held_[document] = std::move(arrays);
  else
    io::write_safetensors(part(document), {arrays.begin(), arrays.end()});
}

RetentionArrays::Named RetentionArrays::load(int64_t document) const {
  if (!sidecar_.exists())
    return held_.at(document);
  const io::TensorFile file = io::TensorFile::open(part(document));
  Named arrays;
  for (const auto& [name, entry] : file.entries())
    arrays[name] = file.load(name).clone();
  return arrays;
}

void RetentionArrays::finish(int64_t documents, const Named& together) const {
  if (!sidecar_.exists())
    return;
  std::map<std::string, std::vector<Tensor>> rows;
  for (int64_t i = 0; i < documents; ++i)
    for (const auto& [name, array] : load(i))
      rows[name].push_back(array);
  std::vector<std::pair<std::string, Tensor>> joined(together.begin(), together.end());
  for (const auto& [name, arrays] : rows)  // a document of an older run may lack one
    if (static_cast<int64_t>(arrays.size()) == documents)
      joined.emplace_back(name, at::stack(arrays));
  sidecar_.write(joined, {{"surviving_weight", "[documents,layers,heads,suffixes]"},
                          {"half_life_tokens", "[documents,layers,heads]; NaN: censored"},
                          {"alpha",
                           "[documents,layers,heads]; mean over tokens, and exp of the mean "
                           "logarithm (geometric)"}});
}

}  // namespace stuffed::eval
