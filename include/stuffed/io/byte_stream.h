// The bytes of a text in order, from a file, a pipe or standard input; gzip and zstd are undone.
#pragma once
#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "stuffed/core/hash.h"

namespace stuffed::io {

/// What was read of pipes, which cannot be read again to find out, and whether anyone waits for
/// more.
class PipeRecord {
 public:
  void add(std::string_view bytes);
  int64_t bytes() const { return bytes_; }
  std::string sha256() const { return hash_.hex_so_far(); }
  void set_awaited(bool is_awaited) { is_awaited_ = is_awaited; }
  bool is_awaited() const { return is_awaited_; }

 private:
  std::atomic<bool> is_awaited_ = true;  // set by one thread while another reads
  int64_t bytes_ = 0;
  Sha256 hash_;
};

struct StreamOptions {
  bool wait = false;                             // for a pipe that gives nothing, without end
  double patience_seconds = 10;                  // how long otherwise
  std::shared_ptr<PipeRecord> record = nullptr;  // is told of every byte taken from a pipe
};

/// Holds one block at a time, however long the file.
class ByteStream {
 public:
  /// `path` "-" is standard input. Gzip (of any number of members) and zstd (of any number of
  /// frames) are recognised by content, whatever the name. Does not read yet.
  /// Errors  Input for what is missing, a folder, a device or a socket
  static ByteStream open(const std::filesystem::path& path, const StreamOptions& options = {});
  ~ByteStream();
  ByteStream(ByteStream&&) noexcept;
  ByteStream& operator=(ByteStream&&) noexcept;

  /// The bytes that come next, some at least; empty at the end. Valid until the next call.
  /// Errors  Input if reading fails, compressed data are damaged or end too soon, or a pipe gives
  ///         nothing for as long as the options say; Interrupted
  std::string_view peek();
  /// Passes over bytes that peek() gave.
  void take(size_t bytes);
  /// Standard input or a pipe: there is no second reading.
  bool is_pipe() const;
  /// Whether the number of bytes is known from the start to be limited: not of a pipe, nor of
  /// compressed data. Known once peek() was called.
  bool is_limited() const;
  /// As messages call it.
  const std::string& name() const;

 private:
  struct Impl;
  explicit ByteStream(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Whether `path` is standard input or a pipe. Throws Input for what open() refuses.
bool is_pipe(const std::filesystem::path& path);

/// All of it.
/// Errors  as ByteStream; Input if what may be endless (a pipe, compressed data) has more than 1
///         GiB
std::string read_stream(const std::filesystem::path& path, const StreamOptions& options = {});

}  // namespace stuffed::io
