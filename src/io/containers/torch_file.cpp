// One tensor in PyTorch's zip container: entries stored uncompressed, a pickle that names the
// storage.
#include "stuffed/io/torch_file.h"

#include <array>
#include <cstring>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"

namespace stuffed::io {
namespace {

constexpr size_t kAlignment = 64;  // of a storage in the file, as torch writes it

/// CRC-32 of zip archives (polynomial 0xedb88320, reflected).
uint32_t crc32(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> entries{};
    for (uint32_t i = 0; i < entries.size(); ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit)
        value = (value >> 1) ^ ((value & 1) != 0 ? 0xedb88320U : 0U);
      entries[i] = value;
    }
    return entries;
  }();
  uint32_t crc = ~0U;
  for (const char c : bytes)
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xffU];
  return ~crc;
}

template <class T>
void put(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

/// Writes the entries of an archive one after the other, then its directory.
class ZipWriter {
 public:
  explicit ZipWriter(AtomicFile& file) : file_(file) {}

  void add(const std::string& name, std::string_view data) {
    std::string fields;           // what the entry's own header and the directory both say
    put<uint16_t>(fields, 0);     // flags
    put<uint16_t>(fields, 0);     // method: stored
    put<uint16_t>(fields, 0);     // time
    put<uint16_t>(fields, 0x21);  // 1980-01-01: the bytes depend on the data alone
    put<uint32_t>(fields, crc32(data));
    put<uint32_t>(fields, static_cast<uint32_t>(data.size()));
    put<uint32_t>(fields, static_cast<uint32_t>(data.size()));
    put<uint16_t>(fields, static_cast<uint16_t>(name.size()));
    const std::string padding = padding_for(name);

    std::string local;
    put<uint32_t>(local, 0x04034b50);
    put<uint16_t>(local, 20);  // version needed
    local += fields;
    put<uint16_t>(local, static_cast<uint16_t>(padding.size()));
    local += name + padding;

    put<uint32_t>(directory_, 0x02014b50);
    put<uint16_t>(directory_, 20);
    put<uint16_t>(directory_, 20);
    directory_ += fields;
    directory_.append(12, '\0');  // no extra field, comment, disk or attributes
    put<uint32_t>(directory_, static_cast<uint32_t>(written_));
    directory_ += name;
    ++entries_;
    write(local);
    write(data);
  }

  void finish() {
    const uint64_t begin = written_;
    std::string end;
    put<uint32_t>(end, 0x06054b50);
    put<uint32_t>(end, 0);
    put<uint16_t>(end, entries_);
    put<uint16_t>(end, entries_);
    put<uint32_t>(end, static_cast<uint32_t>(directory_.size()));
    put<uint32_t>(end, static_cast<uint32_t>(begin));
    put<uint16_t>(end, 0);
    write(directory_);
    write(end);
  }

 private:
  /// An extra field that puts the data at a multiple of kAlignment.
  std::string padding_for(const std::string& name) const {
    constexpr size_t kLocalHeader = 30, kFieldHeader = 4;
    const size_t begin = written_ + kLocalHeader + name.size() + kFieldHeader;
    const size_t bytes = (kAlignment - begin % kAlignment) % kAlignment;
    std::string field = "FB";
    put<uint16_t>(field, static_cast<uint16_t>(bytes));
    return field + std::string(bytes, 'Z');
  }

  void write(std::string_view bytes) {
    file_.write(bytes);
    written_ += bytes.size();
  }

  AtomicFile& file_;
  uint64_t written_ = 0;
  uint16_t entries_ = 0;
  std::string directory_;
};

std::string integer(int64_t value) {
  std::string text = "\x8a\x08";  // LONG1 of eight bytes
  put(text, value);
  return text;
}

std::string word(std::string_view text) {
  std::string out = "X";
  put(out, static_cast<uint32_t>(text.size()));
  return out.append(text);
}

std::string tuple(at::IntArrayRef values) {
  std::string out = "(";
  for (const int64_t value : values)
    out += integer(value);
  return out + "t";
}

/// _rebuild_tensor_v2(storage "0", offset, size, stride, requires_grad, hooks).
std::string pickle_of(const Tensor& tensor) {
  std::string out = "\x80\x02";
  out += "ctorch._utils\n_rebuild_tensor_v2\n((" + word("storage");
  out += "ctorch\nFloatStorage\n" + word("0") + word("cpu") + integer(tensor.numel()) + "tQ";
  out += integer(0) + tuple(tensor.sizes()) + tuple(tensor.strides()) + "\x89";
  return out + "ccollections\nOrderedDict\n)RtR.";
}

}  // namespace

void write_torch_tensor(const std::filesystem::path& path, const Tensor& tensor) {
  const Tensor dense = tensor.to(at::kCPU, at::kFloat).contiguous();
  constexpr size_t kMost = 0xf0000000;  // what 32-bit sizes and places can say, with room to spare
  check(dense.nbytes() < kMost, Error::Kind::Unsupported,
        "{}: {} bytes are more than an archive of this kind can hold", path.string(),
        dense.nbytes());
  const std::string folder = path.stem().string() + "/";
  AtomicFile file(path);
  ZipWriter zip(file);
  zip.add(folder + "data.pkl", pickle_of(dense));
  zip.add(folder + "byteorder", "little");
  zip.add(folder + "data/0", {static_cast<const char*>(dense.const_data_ptr()), dense.nbytes()});
  zip.add(folder + "version", "3\n");
  zip.finish();
  file.commit();
}

}  // namespace stuffed::io
