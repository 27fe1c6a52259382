// Whole states and gates at chosen positions of a stream, for whoever wants to look at them by
// other means.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

/// What the file's tensors are, for --help.
extern const char* const kStateDumpTensors;

struct DumpOptions {
  std::vector<int64_t> positions = {};  // tokens consumed, ascending; empty: nothing is dumped
  std::vector<int64_t> layers = {};     // ascending
  std::vector<int64_t> heads = {};
  std::filesystem::path file = {};
  std::map<std::string, std::string> metadata = {};
};

/// Writes the state after each chosen position, and the gates of the last token before it. The file
/// is laid out before the stream begins and filled as the positions come, so that no more than one
/// layer's tensors are in memory; until finish() it is called FILE.partial.
class StateDump : public Observer {
 public:
  /// Feeds the model one token, to see which gates it has. Writes nothing.
  StateDump(const RecurrentLM& model, DumpOptions options);
  ~StateDump() override;
  StateDump(const StateDump&) = delete;
  StateDump& operator=(const StateDump&) = delete;

  int64_t bytes() const;  // of the file
  const DumpOptions& options() const { return options_; }

  /// Begins the file, or goes on with the one that holds the positions up to `position`.
  /// Errors  Output if it cannot be written; Input if it is to be gone on with and is not there
  void begin(int64_t position = 0);
  /// For batches of one sequence and updates that end at every chosen position.
  void on_update(Where where, const ScanInputs& in, const LayerState& after) override;
  /// Gives the file its name.
  /// Errors  Output
  void finish();

 private:
  struct Slot;  // a tensor of the file
  std::string header() const;
  void write(const void* data, size_t bytes, int64_t place);

  DumpOptions options_;
  Tensor heads_;                                    // int64, on the model's device
  std::vector<std::map<std::string, Slot>> slots_;  // of each layer of the model, by gate
  std::string header_;
  int64_t data_bytes_ = 0;
  int file_ = -1;
};

}  // namespace stuffed::eval
