// The CRC-32 of ZIP archives.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace stuffed::io {

/// Of all bytes, on all threads. Polynomial 0x04C11DB7, reflected, as in PKWARE's APPNOTE.TXT.
uint32_t crc32(std::span<const std::byte> bytes);

}  // namespace stuffed::io
