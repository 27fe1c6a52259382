#include "zip_directory.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "stuffed/core/shown.h"
#include "tensor_container.h"

namespace stuffed::io {
namespace {

constexpr uint32_t kLocalHeader = 0x04034b50;
constexpr uint32_t kCentralHeader = 0x02014b50;
constexpr uint32_t kEnd = 0x06054b50;
constexpr uint32_t kEnd64 = 0x06064b50;
constexpr uint32_t kEnd64Locator = 0x07064b50;
constexpr size_t kEndBytes = 22;
constexpr size_t kEnd64LocatorBytes = 20;
constexpr uint16_t kZip64Extra = 1;
constexpr uint32_t kIn64 = 0xffffffff;  // "see the ZIP64 record"

struct Directory {
  uint64_t count = 0;
  uint64_t bytes = 0;
  uint64_t offset = 0;
};

struct CentralEntry {
  std::string name;
  uint64_t size = 0;
  uint64_t local_header = 0;
  uint32_t crc = 0;
};

class DirectoryReader {
 public:
  explicit DirectoryReader(const MappedFile& file) : file_(file) {}

  Directory directory() const {
    const size_t end = find_end();
    ByteReader reader = reader_at(end + 4);
    reader.take<uint32_t>();  // numbers of this disk and of the directory's: always one disk
    reader.take<uint16_t>();  // entries on this disk
    Directory found;
    found.count = reader.take<uint16_t>();
    found.bytes = reader.take<uint32_t>();
    found.offset = reader.take<uint32_t>();
    size_t directory_end = end;
    if (end >= kEnd64LocatorBytes &&
        reader_at(end - kEnd64LocatorBytes).take<uint32_t>() == kEnd64Locator)
      std::tie(found, directory_end) = zip64_directory(end - kEnd64LocatorBytes);
    check(found.bytes <= directory_end && found.offset <= directory_end - found.bytes,
          Error::Kind::Input, "{}: the zip directory ({} bytes at {}) lies outside the file",
          file_.name(), found.bytes, found.offset);
    return found;
  }

  std::vector<CentralEntry> entries(const Directory& directory) const {
    ByteReader reader(file_.bytes().subspan(directory.offset, directory.bytes), file_.name(),
                      "the zip directory");
    std::vector<CentralEntry> result;
    while (!reader.at_end())
      result.push_back(entry(reader));
    check(result.size() == directory.count, Error::Kind::Input,
          "{}: the zip directory holds {} entries, and is said to hold {}", file_.name(),
          result.size(), directory.count);
    return result;
  }

  /// Local headers repeat the name, and their extra field has a length of its own.
  ZipEntry locate(const CentralEntry& entry, uint64_t end) const {
    check(entry.local_header <= end, Error::Kind::Input,
          "{}: zip entry {} starts at byte {}, beyond the {} before the directory", file_.name(),
          shown(entry.name), entry.local_header, end);
    ByteReader reader = reader_at(entry.local_header);
    check(reader.take<uint32_t>() == kLocalHeader, Error::Kind::Input,
          "{}: no header of zip entry {} at byte {}", file_.name(), shown(entry.name),
          entry.local_header);
    reader.take_bytes(22);  // versions, flags, times and sizes: the central directory's count
    const auto name_bytes = reader.take<uint16_t>();
    const auto extra_bytes = reader.take<uint16_t>();
    check(reader.take_text(name_bytes) == entry.name, Error::Kind::Input,
          "{}: zip entry {} has another name in its own header", file_.name(), shown(entry.name));
    reader.take_bytes(extra_bytes);
    const size_t offset = entry.local_header + reader.at();
    check(offset <= end && entry.size <= end - offset, Error::Kind::Input,
          "{}: zip entry {} ({} bytes at {}) does not lie before the directory at {}", file_.name(),
          shown(entry.name), entry.size, offset, end);
    return {.offset = offset, .size = entry.size, .crc = entry.crc};
  }

 private:
  ByteReader reader_at(size_t offset) const {
    return {file_.bytes().subspan(offset), file_.name(), "the zip archive"};
  }

  /// The end record is followed by nothing but a comment of at most 65,535 bytes.
  size_t find_end() const {
    const size_t size = file_.bytes().size();
    const size_t furthest = std::min(size, kEndBytes + 0xffff);
    for (size_t back = kEndBytes; back <= furthest; ++back) {
      ByteReader reader = reader_at(size - back);
      if (reader.take<uint32_t>() != kEnd)
        continue;
      reader.take_bytes(16);
      if (reader.take<uint16_t>() == back - kEndBytes)
        return size - back;
    }
    fail(Error::Kind::Input,
         "{}: the zip archive has no directory at its end: the file is truncated; fetch it again",
         file_.name());
  }

  std::pair<Directory, size_t> zip64_directory(size_t locator) const {
    ByteReader reader = reader_at(locator + 8);
    const auto end = reader.take<uint64_t>();
    check(end <= locator, Error::Kind::Input,
          "{}: the zip archive's ZIP64 record is said to be at byte {}, after its locator at {}",
          file_.name(), end, locator);
    reader = reader_at(end);
    check(reader.take<uint32_t>() == kEnd64, Error::Kind::Input,
          "{}: the zip archive has no ZIP64 record at byte {}", file_.name(), end);
    reader.take_bytes(28);  // size of the record, versions, disks, entries on this disk
    Directory found;
    found.count = reader.take<uint64_t>();
    found.bytes = reader.take<uint64_t>();
    found.offset = reader.take<uint64_t>();
    return {found, end};
  }

  CentralEntry entry(ByteReader& reader) const {
    check(reader.take<uint32_t>() == kCentralHeader, Error::Kind::Input,
          "{}: the zip directory is damaged", file_.name());
    reader.take<uint32_t>();  // versions
    const auto flags = reader.take<uint16_t>();
    const auto method = reader.take<uint16_t>();
    reader.take<uint32_t>();  // time, date
    CentralEntry entry;
    entry.crc = reader.take<uint32_t>();
    uint64_t compressed = reader.take<uint32_t>();
    entry.size = reader.take<uint32_t>();
    const auto name_bytes = reader.take<uint16_t>();
    const auto extra_bytes = reader.take<uint16_t>();
    const auto comment_bytes = reader.take<uint16_t>();
    reader.take_bytes(8);  // disk, attributes
    entry.local_header = reader.take<uint32_t>();
    entry.name = reader.take_text(name_bytes);
    read_zip64_extra(reader.take_bytes(extra_bytes), entry, compressed);
    reader.take_bytes(comment_bytes);

    check(method == 0 && (flags & 1) == 0, Error::Kind::Input,
          "{}: zip entry {} is compressed or encrypted (method {}); PyTorch stores its entries as "
          "they are: repack the archive without compression (zip -0)",
          file_.name(), shown(entry.name), method);
    check(compressed == entry.size, Error::Kind::Input,
          "{}: stored zip entry {} has {} bytes, and is said to have {}", file_.name(),
          shown(entry.name), compressed, entry.size);
    return entry;
  }

  /// Holds, in this order, those of the three numbers that did not fit 32 bits.
  void read_zip64_extra(std::span<const std::byte> extra,
                        CentralEntry& entry,
                        uint64_t& compressed) const {
    ByteReader fields(extra, file_.name(), "a zip entry's extra field");
    while (extra.size() - fields.at() >= 4) {
      const auto id = fields.take<uint16_t>();
      const auto field = fields.take_bytes(fields.take<uint16_t>());
      if (id != kZip64Extra)
        continue;
      ByteReader numbers(field, file_.name(), "a zip entry's ZIP64 field");
      for (uint64_t* number : {&entry.size, &compressed, &entry.local_header})
        if (*number == kIn64)
          *number = numbers.take<uint64_t>();
    }
  }

  const MappedFile& file_;
};

}  // namespace

std::map<std::string, ZipEntry, std::less<>> read_zip_directory(const MappedFile& file) {
  const DirectoryReader reader(file);
  const Directory directory = reader.directory();
  auto entries = reader.entries(directory);
  std::sort(entries.begin(), entries.end(), [](const CentralEntry& a, const CentralEntry& b) {
    return a.local_header < b.local_header;
  });
  std::map<std::string, ZipEntry, std::less<>> result;
  uint64_t end = 0;
  for (CentralEntry& central : entries) {
    check(central.local_header >= end, Error::Kind::Input,
          "{}: zip entry {} overlaps the one before it", file.name(), shown(central.name));
    const ZipEntry entry = reader.locate(central, directory.offset);
    end = entry.offset + entry.size;
    const auto [at, is_new] = result.emplace(std::move(central.name), entry);
    check(is_new, Error::Kind::Input, "{}: zip entry {} occurs twice", file.name(),
          shown(at->first));
  }
  return result;
}

}  // namespace stuffed::io
