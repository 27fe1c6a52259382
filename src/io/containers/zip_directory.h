// The entries of a ZIP archive whose files are stored uncompressed, as PyTorch writes it: ZIP64 or
// not, sizes taken from the central directory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "mapped_file.h"

namespace stuffed::io {

struct ZipEntry {
  size_t offset = 0;  // of its data, from the start of the file
  size_t size = 0;    // bytes; inside the file
  uint32_t crc = 0;   // CRC-32 of its data; 0 where the writer made none, as PyTorch can be told to
};

/// Errors  Input, naming the file and the entry: no central directory (a truncated file), a
///         compressed or encrypted entry, an entry outside the file, two that overlap, a name used
///         twice
/// Source  PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3
std::map<std::string, ZipEntry, std::less<>> read_zip_directory(const MappedFile& file);

}  // namespace stuffed::io
