#include <algorithm>
#include <cstring>
#include <numeric>
#include <set>

#include <ATen/Functions.h>

#include "stuffed/core/error.h"
#include "stuffed/core/shown.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/json.h"
#include "stuffed/io/tensor_file.h"
#include "tensor_container.h"

namespace stuffed::io {
namespace {

using Named = std::pair<std::string, Tensor>;

/// The data's order: wide elements first, so that every tensor is aligned to its element.
std::vector<size_t> data_order(const std::vector<Named>& tensors) {
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return tensors[a].second.element_size() > tensors[b].second.element_size();
  });
  return order;
}

std::string header(const fs::path& path,
                   const std::vector<Named>& tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<uint64_t> begin(tensors.size());
  uint64_t end = 0;
  for (const size_t i : data_order(tensors)) {
    begin[i] = end;
    end += static_cast<uint64_t>(tensors[i].second.numel() * tensors[i].second.element_size());
  }
  auto fields = nlohmann::ordered_json::object();
  if (!metadata.empty())
    fields["__metadata__"] = metadata;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const auto& [name, tensor] = tensors[i];
    const auto dtype = safetensors_name(tensor.scalar_type());
    check(dtype.has_value(), Error::Kind::Internal,
          "{}: tensor {} has the type {}, which is not "
          "written",
          path.string(), shown(name), c10::toString(tensor.scalar_type()));
    const auto bytes = static_cast<uint64_t>(tensor.numel() * tensor.element_size());
    // Not fields[name]: an ordered_json searches its keys one by one, and names are checked
    // already.
    fields.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(
        name, nlohmann::ordered_json{{"dtype", *dtype},
                                     {"shape", tensor.sizes().vec()},
                                     {"data_offsets", {begin[i], begin[i] + bytes}}});
  }
  std::string text;
  try {
    text = fields.dump();
  } catch (const nlohmann::json::exception& error) {
    fail(Error::Kind::Internal, "{}: a name or the metadata is not UTF-8: {}", path.string(),
         error.what());
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  return text;
}

void check_names(const fs::path& path, const std::vector<Named>& tensors) {
  std::set<std::string_view> names = {"__metadata__"};
  for (const auto& [name, tensor] : tensors) {
    check(names.insert(name).second, Error::Kind::Internal,
          "{}: the tensor name {} is taken already", path.string(), shown(name));
    check(tensor.defined(), Error::Kind::Internal, "{}: tensor {} is undefined", path.string(),
          shown(name));
  }
}

}  // namespace

void write_safetensors(const fs::path& path,
                       const std::vector<Named>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  check_names(path, tensors);
  const std::string head = header(path, tensors, metadata);
  const uint64_t head_bytes = head.size();
  AtomicFile file(path);
  file.write(&head_bytes, sizeof head_bytes);
  file.write(head);
  for (const size_t i : data_order(tensors)) {
    const Tensor tensor = tensors[i].second.cpu().contiguous();
    file.write(tensor.const_data_ptr(),
               static_cast<size_t>(tensor.numel() * tensor.element_size()));
  }
  file.commit();
}

}  // namespace stuffed::io
