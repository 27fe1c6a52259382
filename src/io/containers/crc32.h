// The CRC-32 of ZIP archives.
#pragma once
#include <cstddef>
#include <cstdint>

#include "mapped_file.h"

namespace stuffed::io {

/// Of these bytes of the file, on all threads; those of a large range leave memory again.
/// Polynomial 0x04C11DB7, reflected, as in PKWARE's APPNOTE.TXT.
uint32_t crc32(const MappedFile& file, size_t offset, size_t size);

}  // namespace stuffed::io
