#include "tensor_container.h"

#include <algorithm>
#include <array>
#include <utility>

#include "crc32.h"
#include "stuffed/core/shown.h"

namespace stuffed::io {
namespace {

constexpr std::array<std::pair<std::string_view, at::ScalarType>, 13> kDtypes = {{
    {"F64", at::kDouble},
    {"F32", at::kFloat},
    {"F16", at::kHalf},
    {"BF16", at::kBFloat16},
    {"I64", at::kLong},
    {"I32", at::kInt},
    {"I16", at::kShort},
    {"I8", at::kChar},
    {"U64", at::kUInt64},
    {"U32", at::kUInt32},
    {"U16", at::kUInt16},
    {"U8", at::kByte},
    {"BOOL", at::kBool},
}};

}  // namespace

void StoredChecksum::verify(const MappedFile& file) {
  std::call_once(once_, [&] {
    const uint32_t found = crc32(file, offset_, size_);
    check(found == crc_, Error::Kind::Input,
          "{}: the {} bytes of zip entry {} have the CRC-32 {:08x}, and are said to have {:08x}: "
          "the file is damaged; fetch it again",
          file.name(), size_, shown(what_), found, crc_);
  });
}

std::optional<at::ScalarType> dtype_of(std::string_view safetensors_name) {
  for (const auto& [name, dtype] : kDtypes)
    if (name == safetensors_name)
      return dtype;
  return std::nullopt;
}

std::optional<std::string_view> safetensors_name(at::ScalarType dtype) {
  for (const auto& [name, known] : kDtypes)
    if (known == dtype)
      return name;
  return std::nullopt;
}

std::optional<int64_t> element_count(std::span<const int64_t> shape) {
  int64_t count = 1;
  bool is_empty = false;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(count, std::max<int64_t>(size, 1), &count) ||
        count > (int64_t{1} << 62))
      return std::nullopt;
    is_empty |= size == 0;
  }
  return is_empty ? 0 : count;
}

std::vector<int64_t> contiguous_strides(std::span<const int64_t> shape) {
  std::vector<int64_t> stride(shape.size(), 1);
  for (size_t axis = shape.size(); axis-- > 1;)
    stride[axis - 1] = stride[axis] * std::max<int64_t>(shape[axis], 1);
  return stride;
}

}  // namespace stuffed::io
