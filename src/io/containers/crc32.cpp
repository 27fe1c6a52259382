#include "crc32.h"

#include <algorithm>
#include <vector>
#include <zlib.h>

#include <ATen/Parallel.h>

namespace stuffed::io {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 24;  // a thread's share: milliseconds

}  // namespace

uint32_t crc32(const MappedFile& file, size_t offset, size_t size) {
  const auto pieces = static_cast<int64_t>((size + kPieceBytes - 1) / kPieceBytes);
  const auto begin = [&](int64_t i) { return static_cast<size_t>(i) * kPieceBytes; };
  const auto bytes = [&](int64_t i) { return std::min(kPieceBytes, size - begin(i)); };
  std::vector<uLong> parts(static_cast<size_t>(pieces));
  at::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const std::byte* data = file.bytes().data() + offset + begin(i);
      parts[static_cast<size_t>(i)] = ::crc32_z(0, reinterpret_cast<const Bytef*>(data), bytes(i));
      if (pieces > 1)
        file.release(offset + begin(i), bytes(i));
    }
  });
  uLong crc = 0;
  for (int64_t i = 0; i < pieces; ++i)
    crc = ::crc32_combine(crc, parts[static_cast<size_t>(i)], static_cast<z_off_t>(bytes(i)));
  return static_cast<uint32_t>(crc);
}

}  // namespace stuffed::io
