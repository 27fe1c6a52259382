#include "decompress.h"

#if __has_include(<zlib.h>)
#include <zlib.h>
#define STUFFED_WITH_ZLIB 1
#endif
#if __has_include(<zstd.h>)
#include <zstd.h>
#define STUFFED_WITH_ZSTD 1
#endif

#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

#ifdef STUFFED_WITH_ZLIB
class Gunzip final : public Decompressor {
 public:
  explicit Gunzip(std::string name) : name_(std::move(name)) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;  // zlib's way of asking for the gzip format
    check(inflateInit2(&stream_, kGzipOnly) == Z_OK, Error::Kind::Internal, "zlib cannot start");
  }
  ~Gunzip() override { inflateEnd(&stream_); }

  Step run(std::string_view in, std::span<char> out) override {
    if (is_whole_)
      if (const size_t padding = next_member(in); padding > 0)
        return {.read = padding};
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(in.data()));
    stream_.avail_in = static_cast<uInt>(in.size());
    stream_.next_out = reinterpret_cast<Bytef*>(out.data());
    stream_.avail_out = static_cast<uInt>(out.size());
    const int status = inflate(&stream_, Z_NO_FLUSH);
    check(status == Z_OK || status == Z_STREAM_END || status == Z_BUF_ERROR, Error::Kind::Input,
          "{}: its gzip data are damaged: {}", name_,
          stream_.msg == nullptr ? zError(status) : stream_.msg);
    is_whole_ = status == Z_STREAM_END;
    return {.read = in.size() - stream_.avail_in, .written = out.size() - stream_.avail_out};
  }

  bool is_whole() const override { return is_whole_; }

 private:
  /// Behind a member another one may follow, or zeros that fill up a block: returns how many.
  size_t next_member(std::string_view in) {
    const size_t zeros = std::min(in.find_first_not_of('\0'), in.size());
    if (zeros == 0) {
      check(in[0] == '\x1f', Error::Kind::Input,
            "{}: something that is not gzip follows its gzip data", name_);
      inflateReset(&stream_);
      is_whole_ = false;
    }
    return zeros;
  }

  std::string name_;
  z_stream stream_{};
  bool is_whole_ = false;
};

#endif  // STUFFED_WITH_ZLIB

#ifdef STUFFED_WITH_ZSTD
class Unzstd final : public Decompressor {
 public:
  explicit Unzstd(std::string name) : name_(std::move(name)), context_(ZSTD_createDCtx()) {
    check(context_ != nullptr, Error::Kind::Memory, "zstd cannot start");
  }
  ~Unzstd() override { ZSTD_freeDCtx(context_); }

  Step run(std::string_view in, std::span<char> out) override {
    ZSTD_inBuffer from{in.data(), in.size(), 0};
    ZSTD_outBuffer to{out.data(), out.size(), 0};
    const size_t status = ZSTD_decompressStream(context_, &to, &from);
    check(ZSTD_isError(status) == 0, Error::Kind::Input, "{}: its zstd data are damaged: {}", name_,
          ZSTD_getErrorName(status));
    is_whole_ = status == 0;
    return {.read = from.pos, .written = to.pos};
  }

  bool is_whole() const override { return is_whole_; }

 private:
  std::string name_;
  ZSTD_DCtx* context_;
  bool is_whole_ = false;
};

#endif  // STUFFED_WITH_ZSTD

/// What could be read by another build of this program.
[[maybe_unused]] std::unique_ptr<Decompressor> refuse(const std::string& name,
                                                      const char* library) {
  fail(Error::Kind::Unsupported, "{}: is compressed, and this build has no {}; decompress it first",
       name, library);
}

bool is_gzip(std::string_view text) {
  return text.starts_with("\x1f\x8b");
}

/// A frame of data, or one to be skipped, which some programs put first.
bool is_zstd(std::string_view text) {
  return text.starts_with("\x28\xb5\x2f\xfd") ||
         (text.size() >= kMagicBytes && (text[0] & 0xF0) == 0x50 &&
          text.substr(1).starts_with("\x2a\x4d\x18"));
}

}  // namespace

std::unique_ptr<Decompressor> decompressor_for(std::string_view beginning,
                                               const std::string& name) {
#ifdef STUFFED_WITH_ZLIB
  if (is_gzip(beginning))
    return std::make_unique<Gunzip>(name);
#endif
#ifdef STUFFED_WITH_ZSTD
  if (is_zstd(beginning))
    return std::make_unique<Unzstd>(name);
#endif
  if (is_gzip(beginning))
    return refuse(name, "zlib");
  return is_zstd(beginning) ? refuse(name, "libzstd") : nullptr;
}

}  // namespace stuffed::io
