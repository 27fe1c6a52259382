// Gzip and zstd, undone piece by piece.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace stuffed::io {

class Decompressor {
 public:
  virtual ~Decompressor() = default;
  struct Step {
    size_t read = 0, written = 0;  // bytes
  };
  /// Turns some of `in` into some of `out`. Throws Input for damaged data.
  virtual Step run(std::string_view in, std::span<char> out) = 0;
  /// Whether the data may end here.
  virtual bool is_whole() const = 0;
};

constexpr size_t kMagicBytes = 4;  // as many decide what a file is

/// The decompressor for what begins like this, null if it is neither gzip nor zstd. `name` is for
/// messages.
std::unique_ptr<Decompressor> decompressor_for(std::string_view beginning, const std::string& name);

}  // namespace stuffed::io
