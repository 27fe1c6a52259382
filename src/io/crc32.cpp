#include "crc32.h"

#include <algorithm>
#include <vector>
#include <zlib.h>

#include <ATen/Parallel.h>

namespace stuffed::io {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 24;  // a thread's share: milliseconds

}  // namespace

uint32_t crc32(std::span<const std::byte> bytes) {
  const auto pieces = static_cast<int64_t>((bytes.size() + kPieceBytes - 1) / kPieceBytes);
  const auto piece = [&](int64_t i) {
    const size_t begin = static_cast<size_t>(i) * kPieceBytes;
    return bytes.subspan(begin, std::min(kPieceBytes, bytes.size() - begin));
  };
  std::vector<uLong> parts(static_cast<size_t>(pieces));
  at::parallel_for(0, pieces, 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      parts[static_cast<size_t>(i)] =
          ::crc32_z(0, reinterpret_cast<const Bytef*>(piece(i).data()), piece(i).size());
  });
  uLong crc = 0;
  for (int64_t i = 0; i < pieces; ++i)
    crc =
        ::crc32_combine(crc, parts[static_cast<size_t>(i)], static_cast<z_off_t>(piece(i).size()));
  return static_cast<uint32_t>(crc);
}

}  // namespace stuffed::io
