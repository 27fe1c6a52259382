// Which bytes a training step sees. Every draw is a function of (seed, step, row), so a resumed run
// sees what a run that never stopped would have seen.
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "stuffed/core/rng.h"
#include "stuffed/core/tensor.h"

namespace stuffed::train {

enum class Source {
  Text,     // a random place in the training files
  Repeat,   // a random string of printable bytes, repeated to fill the window
  Passkey,  // passkey prompts with their answers (stuffed/io/passkey_text.h)
};

std::string_view source_name(Source source);
Source parse_source(std::string_view name);  // throws Usage

struct DataConfig {
  // Files, pipes or "-" (standard input), as ByteStream reads them.
  std::vector<std::filesystem::path> text;
  std::vector<std::filesystem::path> held_out;           // validation text; never trained on
  std::map<Source, double> mix = {{Source::Text, 1.0}};  // shares of the windows; sum to 1
  int64_t repeat_min = 8, repeat_max = 64;               // bytes of a repeated string
  int64_t window = 512;  // bytes drawn at once; cut into sequences of the training length
  uint64_t seed = 0;
  bool wait = false;  // for a pipe that gives nothing, without end
};

/// All the bytes a run may see, in memory.
class ByteData {
 public:
  /// Errors  Input if a file is unreadable or shorter than a window; Usage if the mixture is no
  ///         mixture, or wants text and no file is named
  explicit ByteData(const DataConfig& config);

  /// Windows of step `step`: [windows, window+1] int64, byte values. Which source a window comes
  /// from is drawn so that each step has its share to within one window.
  Tensor windows(int64_t step, int64_t windows) const;

  /// The same windows cut into sequences [rows, length+1], rows in the order of the bytes; the last
  /// byte of one sequence is the first of the next. Runs that differ in `length` alone thus see the
  /// same bytes in the same steps. `length` must divide the window.
  Tensor sequences(int64_t step, int64_t windows, int64_t length) const;

  /// Validation sequences [rows, length+1] of one source: fixed, evenly spaced places of the
  /// held-out text, or draws that no training step makes.
  Tensor validation(Source source, int64_t rows, int64_t length) const;

  /// SHA-256 over the training files and over the held-out files.
  std::string text_hash() const;
  std::string held_out_hash() const;
  int64_t text_bytes() const { return static_cast<int64_t>(text_.bytes.size()); }

 private:
  struct Corpus {
    std::string bytes;          // the files, one after the other
    std::vector<int64_t> ends;  // where each file ends
  };
  static Corpus read(const std::vector<std::filesystem::path>& files, int64_t at_least, bool wait);
  void fill(Source source, Rng& rng, std::span<int64_t> out) const;
  void fill_text(const Corpus& corpus, int64_t place, std::span<int64_t> out) const;

  DataConfig config_;
  Corpus text_, held_out_;
};

/// A string of `length` random printable bytes (0x20..0x7e), repeated to fill `out`.
void fill_repeat(Rng& rng, int64_t length, std::span<int64_t> out);

/// Passkey prompts with their answers, each of a random length up to what is left, until `out` is
/// full.
void fill_passkey(Rng& rng, std::span<int64_t> out);

}  // namespace stuffed::train
