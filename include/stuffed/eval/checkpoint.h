// What an evaluation needs to go on in the middle of a document: kept beside its journal, written
// when a signal asks the run to stop, and from time to time in case that nobody asks.
#pragma once
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "stuffed/core/tensor.h"
#include "stuffed/io/journal.h"

namespace stuffed::eval {

/// Everything that the rest of a measurement depends on, besides its inputs.
struct Snapshot {
  std::string place;                           // what is being measured: "document=3"
  std::map<std::string, Tensor> tensors = {};  // handles; nothing may write through them
  io::json fields = io::json::object();
  std::string where = {};  // the file it comes from, for messages

  /// Errors  Input if it is missing or has another type or number of axes
  const Tensor& at(const std::string& name, at::ScalarType dtype, int64_t axes) const;
  /// Errors  Input if it is missing, or no integer from `least` to `most`
  int64_t integer(const std::string& name, int64_t least, int64_t most) const;
  /// Errors  Input if it is missing, or not an array of strings
  std::vector<std::string> strings(const std::string& name) const;
  /// Errors  Input unless `good`
  void check_that(bool good) const;
};

/// OUT.jsonl.state, which belongs to OUT.jsonl: safetensors, replaced atomically. Where the results
/// are no file, nothing is kept, and a signal still stops the run.
class Checkpoint {
 public:
  /// `save_every_seconds` 0: only when a signal came.
  explicit Checkpoint(const io::Journal& journal, double save_every_seconds = 600);

  /// What the run stopped at, if it left anything.
  /// Errors  Input if the file is damaged or belongs to another journal
  std::optional<Snapshot> load() const;

  /// Tells that the run could go on from here. Writes the file if it is time. `snapshot` is called
  /// only if it is needed.
  /// Errors  Interrupted, once the file is written, if a signal came; Output
  void reached(const std::function<Snapshot()>& snapshot);

  /// For a measurement that was left in the middle of a segment: goes back to the place reached
  /// last, writes the file and throws Interrupted.
  [[noreturn]] void stop();

  /// Between two measurements.
  /// Errors  Interrupted if a signal came
  void stop_if_asked();

  /// The measurement is in the journal: what was reached in it no longer matters.
  void forget();
  /// Removes the file: the run is at its end.
  void remove() const;

  const std::filesystem::path& path() const { return path_; }  // empty: there is none

 private:
  using Clock = std::chrono::steady_clock;
  void write();

  const io::Journal& journal_;
  std::filesystem::path path_;
  double save_every_seconds_;
  Clock::time_point saved_at_ = Clock::now(), reached_at_ = saved_at_;
  std::optional<Snapshot> last_;  // reached, and not written yet
};

}  // namespace stuffed::eval
