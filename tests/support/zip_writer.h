// ZIP archives byte by byte, with every field a test may want to falsify.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace stuffed::testing {

struct ZipMember {
  std::string name;
  std::string data;
  uint16_t method = 0;           // 8: deflated
  int64_t size_shift = 0;        // added to the size the directory states
  int64_t offset_shift = 0;      // added to the local header's position the directory states
  std::string local_extra = "";  // differs from the central one in real files
  std::string local_name = "";   // "" means the same as `name`
};

template <class T>
void put(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// The archive; with `zip64`, sizes and offsets are in ZIP64 records alone.
inline std::string zip_archive(const std::vector<ZipMember>& members, bool zip64 = false) {
  std::string out, directory;
  for (const ZipMember& member : members) {
    const uint64_t offset = out.size() + static_cast<uint64_t>(member.offset_shift);
    const uint64_t size = member.data.size() + static_cast<uint64_t>(member.size_shift);
    const std::string& local_name = member.local_name.empty() ? member.name : member.local_name;
    put<uint32_t>(out, 0x04034b50);
    put<uint16_t>(out, 20);
    put<uint16_t>(out, 8);  // sizes follow the data: those here are zero
    put<uint16_t>(out, member.method);
    out.append(16, '\0');
    put<uint16_t>(out, static_cast<uint16_t>(local_name.size()));
    put<uint16_t>(out, static_cast<uint16_t>(member.local_extra.size()));
    out += local_name + member.local_extra + member.data;

    std::string extra;
    if (zip64) {
      put<uint16_t>(extra, 1);
      put<uint16_t>(extra, 24);
      put<uint64_t>(extra, size);
      put<uint64_t>(extra, size);
      put<uint64_t>(extra, offset);
    }
    put<uint32_t>(directory, 0x02014b50);
    put<uint32_t>(directory, 20);
    put<uint16_t>(directory, 8);
    put<uint16_t>(directory, member.method);
    directory.append(8, '\0');
    put<uint32_t>(directory, zip64 ? 0xffffffff : static_cast<uint32_t>(size));
    put<uint32_t>(directory, zip64 ? 0xffffffff : static_cast<uint32_t>(size));
    put<uint16_t>(directory, static_cast<uint16_t>(member.name.size()));
    put<uint16_t>(directory, static_cast<uint16_t>(extra.size()));
    directory.append(10, '\0');
    put<uint32_t>(directory, zip64 ? 0xffffffff : static_cast<uint32_t>(offset));
    directory += member.name + extra;
  }
  const uint64_t begin = out.size();
  out += directory;
  if (zip64) {
    const uint64_t record = out.size();
    put<uint32_t>(out, 0x06064b50);
    put<uint64_t>(out, 44);
    out.append(12, '\0');
    for (int i = 0; i < 2; ++i)
      put<uint64_t>(out, members.size());
    put<uint64_t>(out, directory.size());
    put<uint64_t>(out, begin);
    put<uint32_t>(out, 0x07064b50);
    put<uint32_t>(out, 0);
    put<uint64_t>(out, record);
    put<uint32_t>(out, 1);
  }
  put<uint32_t>(out, 0x06054b50);
  put<uint32_t>(out, 0);
  for (int i = 0; i < 2; ++i)
    put<uint16_t>(out, zip64 ? 0xffff : static_cast<uint16_t>(members.size()));
  put<uint32_t>(out, zip64 ? 0xffffffff : static_cast<uint32_t>(directory.size()));
  put<uint32_t>(out, zip64 ? 0xffffffff : static_cast<uint32_t>(begin));
  put<uint16_t>(out, 0);
  return out;
}

}  // namespace stuffed::testing
