// The one loop over documents: which are done, which are fed side by side, where a stopped run goes
// on, and how a run ends. A task says what is measured of them and what the measurements say
// together.
#pragma once
#include <functional>
#include <optional>
#include <vector>

#include "stuffed/eval/checkpoint.h"
#include "stuffed/eval/progress.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/token_source.h"
#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

/// Documents that are fed side by side: consecutive ones of one length.
struct Batch {
  int64_t first = 0;  // how many documents came before
  std::vector<io::Document> documents = {};

  int64_t rows() const { return static_cast<int64_t>(documents.size()); }
  int64_t targets() const { return static_cast<int64_t>(documents.front().tokens.size()) - 1; }
};

/// What a task is told while it measures one batch.
class Measuring {
 public:
  Measuring(Checkpoint& checkpoint,
            std::optional<Snapshot> resumed,
            std::string place,
            Progress& progress,
            const OnProgress& on_progress)
      : checkpoint_(checkpoint),
        resumed_(std::move(resumed)),
        place_(std::move(place)),
        progress_(progress),
        on_progress_(on_progress) {}

  /// Where a stopped run got to in this batch. Null: it begins at its first token.
  const Snapshot* resumed() const { return resumed_ ? &*resumed_ : nullptr; }

  /// The batch takes `total` of what is counted, and a stopped run did `done` of it.
  void begin(int64_t total, int64_t done = 0);
  /// `done` of it is done, `fed` tokens since the last call.
  void advance(int64_t done, int64_t fed);
  /// The batch could go on from here; `fill` fills in what that takes, if it is needed.
  /// Errors  Interrupted, if a signal came
  void reached(const std::function<void(Snapshot&)>& fill);

 private:
  Checkpoint& checkpoint_;
  std::optional<Snapshot> resumed_;
  std::string place_;
  Progress& progress_;
  const OnProgress& on_progress_;
};

class DocumentTask {
 public:
  virtual ~DocumentTask() = default;
  /// Documents of one length that are fed side by side, at most.
  virtual int64_t batch() const { return 1; }
  /// Another process goes on: the sidecar must hold the documents that have so many `targets`, and
  /// part of one more if the run stopped in the middle.
  /// Errors  Input
  virtual void keep(const std::vector<int64_t>& targets, bool in_the_middle) = 0;
  /// The journal is finished; is everything beside it there? Errors  Input
  virtual void check_finished() const {}
  /// One record per document, without what all tasks record (document, name, targets, boundaries).
  virtual std::vector<io::json> measure(const Batch& batch, Measuring& measuring) = 0;
  /// What the records of all documents say together, without what the source left out.
  virtual io::json summarise(const std::vector<int64_t>& targets) = 0;
  /// Makes the sidecar of its parts. Called again if a run is killed in it.
  virtual void conclude(const std::vector<int64_t>& targets) = 0;
  virtual void remove_partial() const = 0;
};

/// Measures every document that `results` does not hold yet, then appends the summary and the end
/// line; returns the summary.
/// Errors  Interrupted, after what is needed to go on was saved; whatever source, task and results
/// throw
io::json run_documents(DocumentTask& task,
                       io::TokenSource& source,
                       io::Journal& journal,
                       Checkpoint& checkpoint,
                       const OnProgress& on_progress);

/// Numbers of the documents that have a record, ascending. Some may be missing: lines that were
/// left out as bad.
std::vector<int64_t> document_numbers(const io::Journal& journal);
io::json document_record(const io::Journal& journal, int64_t number);

/// [rows,N+1] int32. Rows without a document repeat the first: with one shape for every batch a
/// document's losses do not depend on how many share it, nor on which.
Tensor tokens_of(const Batch& batch, int64_t rows);

}  // namespace stuffed::eval
