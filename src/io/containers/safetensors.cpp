// The safetensors container: u64 header length, JSON header, then the tensors' bytes without gaps.
#include <algorithm>

#include "stuffed/core/shown.h"
#include "stuffed/io/json.h"
#include "tensor_container.h"

namespace stuffed::io {
namespace {

// The format's own limit (the reference implementation refuses longer headers).
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

class HeaderReader {
 public:
  HeaderReader(const std::string& file, size_t data_begin, size_t data_bytes)
      : file_(file), data_begin_(data_begin), data_bytes_(data_bytes) {}

  StoredTensor tensor(const std::string& name, const json& fields) const {
    check(fields.is_object() && fields.contains("dtype") && fields.contains("shape") &&
              fields.contains("data_offsets"),
          Error::Kind::Input,
          "{}: header of tensor {}: expected an object with dtype, shape and data_offsets", file_,
          shown(name));
    const auto offsets = numbers(name, fields, "data_offsets", 2);
    check(offsets.size() == 2 && offsets[0] <= offsets[1], Error::Kind::Input,
          "{}: tensor {} has data_offsets {}, expected [begin, end)", file_, shown(name), offsets);
    check(std::cmp_less_equal(offsets[1], data_bytes_), Error::Kind::Input,
          "{}: tensor {} ends at byte {} of the data, which has {}: the file is truncated or its "
          "header is wrong; fetch it again",
          file_, shown(name), offsets[1], data_bytes_);

    StoredTensor tensor{.shape = numbers(name, fields, "shape", kMaxDims),
                        .stride = {},
                        .dtype = dtype(name, fields["dtype"]),
                        .storage = name,
                        .offset = data_begin_ + static_cast<size_t>(offsets[0]),
                        .extent = static_cast<size_t>(offsets[1] - offsets[0])};
    const auto count = element_count(tensor.shape);
    const auto element_bytes = static_cast<int64_t>(c10::elementSize(tensor.dtype));
    check(count && *count <= offsets[1] / element_bytes &&
              std::cmp_equal(*count * element_bytes, tensor.extent),
          Error::Kind::Input, "{}: tensor {} of shape {} and type {} does not fit its {} bytes",
          file_, shown(name), tensor.shape, c10::toString(tensor.dtype), tensor.extent);
    tensor.stride = contiguous_strides(tensor.shape);
    return tensor;
  }

  std::map<std::string, std::string> metadata(const json& fields) const {
    std::map<std::string, std::string> result;
    check(fields.is_object(), Error::Kind::Input, "{}: __metadata__ is not an object", file_);
    for (const auto& [key, value] : fields.items()) {
      check(value.is_string(), Error::Kind::Input, "{}: __metadata__ entry {} is not a string",
            file_, shown(key));
      result.emplace(key, value.get<std::string>());
    }
    return result;
  }

 private:
  std::vector<int64_t> numbers(const std::string& name,
                               const json& fields,
                               const char* key,
                               size_t max_count) const {
    const json& list = fields[key];
    check(list.is_array() && list.size() <= max_count, Error::Kind::Input,
          "{}: {} of tensor {} must be an array of at most {} integers", file_, key, shown(name),
          max_count);
    std::vector<int64_t> result;
    for (const json& item : list) {
      check(item.is_number_unsigned() && item.get<uint64_t>() <= INT64_MAX, Error::Kind::Input,
            "{}: {} of tensor {} must hold integers from 0 to 2^63-1", file_, key, shown(name));
      result.push_back(item.get<int64_t>());
    }
    return result;
  }

  at::ScalarType dtype(const std::string& name, const json& value) const {
    const std::string spelled = value.is_string() ? value.get<std::string>() : value.type_name();
    const auto dtype = dtype_of(spelled);
    check(dtype.has_value(), Error::Kind::Input,
          "{}: tensor {} has the unknown dtype {}; known are F64, F32, F16, BF16, the integers "
          "and BOOL",
          file_, shown(name), shown(spelled));
    return *dtype;
  }

  const std::string& file_;
  size_t data_begin_, data_bytes_;
};

/// Tied weights are stored once; the metadata then names the tensor that each missing name stands
/// for, as safetensors' save_model() writes it.
void add_aliases(TensorContainer& container) {
  std::map<std::string, StoredTensor> aliases;
  for (const auto& [name, of] : container.metadata)
    if (const auto tensor = container.tensors.find(of);
        tensor != container.tensors.end() && !container.tensors.contains(name)) {
      aliases[name] = tensor->second;
      aliases[name].is_alias = true;
    }
  container.tensors.merge(aliases);
}

/// Every byte of the data belongs to exactly one tensor, as the format demands.
void check_coverage(const MappedFile& file, const TensorContainer& container, size_t data_begin) {
  std::vector<std::pair<const std::string*, const StoredTensor*>> in_order;
  for (const auto& [name, tensor] : container.tensors)
    in_order.emplace_back(&name, &tensor);
  std::sort(in_order.begin(), in_order.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->offset, a.second->extent) <
           std::pair(b.second->offset, b.second->extent);
  });
  size_t end = data_begin;
  std::string_view previous;
  for (const auto& [name, tensor] : in_order) {
    check(tensor->offset >= end, Error::Kind::Input, "{}: tensors {} and {} overlap", file.name(),
          shown(previous), shown(*name));
    check(tensor->offset == end, Error::Kind::Input,
          "{}: {} bytes before tensor {} belong to no tensor", file.name(), tensor->offset - end,
          shown(*name));
    end = tensor->offset + tensor->extent;
    previous = *name;
  }
  check(end == file.bytes().size(), Error::Kind::Input,
        "{}: {} bytes at the end belong to no tensor", file.name(), file.bytes().size() - end);
}

}  // namespace

TensorContainer read_safetensors(const MappedFile& file) {
  ByteReader reader(file.bytes(), file.name(), "the safetensors file");
  const auto header_bytes = reader.take<uint64_t>();
  const size_t left = file.bytes().size() - reader.at();
  check(header_bytes <= kMaxHeaderBytes, Error::Kind::Input,
        "{}: a safetensors header of {} bytes, more than the {} the format allows", file.name(),
        header_bytes, kMaxHeaderBytes);
  check(header_bytes <= left, Error::Kind::Input,
        "{}: the header is said to have {} bytes, but only {} follow: truncated, or not a "
        "safetensors file",
        file.name(), header_bytes, left);
  const json header = parse_json(reader.take_text(header_bytes), file.name() + ", header");
  check(header.is_object(), Error::Kind::Input, "{}: the safetensors header is not an object",
        file.name());

  const HeaderReader fields(file.name(), reader.at(), left - header_bytes);
  TensorContainer container;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__")
      container.metadata = fields.metadata(value);
    else
      container.tensors.emplace(name, fields.tensor(name, value));
  }
  check_coverage(file, container, reader.at());
  add_aliases(container);
  return container;
}

}  // namespace stuffed::io
