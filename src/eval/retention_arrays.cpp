#include "retention_arrays.h"

#include <vector>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::eval {

namespace fs = std::filesystem;

fs::path RetentionArrays::partial(int64_t document) const {
  return fs::path(path_).concat(fmt::format(".document-{}.partial", document));
}

void RetentionArrays::keep(int64_t documents) const {
  if (path_.empty())
    return;
  for (int64_t i = 0; i < documents; ++i)
    check(fs::exists(partial(i)), Error::Kind::Input,
          "{}: is not there, but the journal holds its document; start anew with --overwrite",
          partial(i).string());
  remove_partial(documents);
}

void RetentionArrays::save(int64_t document, Named arrays) {
  if (path_.empty())
    held_[document] = std::move(arrays);
  else
    io::write_safetensors(partial(document), {arrays.begin(), arrays.end()});
}

RetentionArrays::Named RetentionArrays::load(int64_t document) const {
  if (path_.empty())
    return held_.at(document);
  const io::TensorFile file = io::TensorFile::open(partial(document));
  Named arrays;
  for (const auto& [name, entry] : file.entries())
    arrays[name] = file.load(name).clone();
  return arrays;
}

void RetentionArrays::finish(int64_t documents, const Named& together) const {
  if (path_.empty())
    return;
  std::map<std::string, std::vector<Tensor>> rows;
  for (int64_t i = 0; i < documents; ++i)
    for (const auto& [name, array] : load(i))
      rows[name].push_back(array);
  std::vector<std::pair<std::string, Tensor>> joined(together.begin(), together.end());
  for (const auto& [name, arrays] : rows)
    joined.emplace_back(name, at::stack(arrays));
  io::write_safetensors(path_, joined,
                        {{"surviving_weight", "[documents,layers,heads,suffixes]"},
                         {"half_life_tokens", "[documents,layers,heads]; NaN: censored"}});
}

void RetentionArrays::remove_partial(int64_t from) const {
  std::error_code ignored;
  if (!path_.empty())
    for (int64_t i = from; fs::remove(partial(i), ignored);)
      ++i;
}

}  // namespace stuffed::eval
