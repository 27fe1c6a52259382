#include "documents.h"

#include <ATen/ATen.h>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {

std::string key_of(int64_t document) {
  return fmt::format("document={}", document);
}

io::json as_json(const std::vector<io::Boundary>& boundaries) {
  io::json all = io::json::array();
  for (const io::Boundary& boundary : boundaries)
    all.push_back({{"position", boundary.position}, {"name", boundary.name}});
  return all;
}

io::json as_json(const std::vector<io::Skipped>& skipped) {
  io::json all = io::json::array();
  for (const io::Skipped& document : skipped)
    all.push_back({{"name", document.name}, {"targets", document.targets}});
  return all;
}

class Run {
 public:
  Run(DocumentTask& task,
      io::TokenSource& source,
      io::Results& results,
      Checkpoint& checkpoint,
      const OnProgress& on_progress)
      : task_(task),
        source_(source),
        results_(results),
        checkpoint_(checkpoint),
        on_progress_(on_progress) {}

  io::json run() {
    if (!results_.finished()) {
      take_up();
      measure_all();
      conclude();
    }
    task_.remove_partial();
    checkpoint_.remove();
    return results_.record("summary");
  }

 private:
  /// What an earlier process did.
  void take_up() {
    while (results_.done(key_of(done())))
      targets_.push_back(results_.record(key_of(done())).at("targets"));
    resumed_ = checkpoint_.load();
    if (resumed_ && resumed_->place != key_of(done()))
      resumed_.reset();  // what it stopped at was measured since
    task_.keep(targets_, resumed_.has_value());
  }

  void measure_all() {
    Batch batch;
    for (int64_t index = 0; std::optional<io::Document> document = source_.next(); ++index) {
      if (results_.done(key_of(index)))
        continue;
      const bool full = batch.rows() == task_.batch();
      if (batch.rows() > 0 &&
          (full || batch.documents.front().tokens.size() != document->tokens.size()))
        measure(batch);
      if (batch.rows() == 0)
        batch.first = index;
      batch.documents.push_back(std::move(*document));
    }
    if (batch.rows() > 0)
      measure(batch);
  }

  void measure(Batch& batch) {
    checkpoint_.stop_if_asked();
    progress_.document = batch.first;
    Measuring measuring(checkpoint_, std::exchange(resumed_, std::nullopt), key_of(batch.first),
                        progress_, on_progress_);
    const std::vector<io::json> records = records_of(batch, measuring);
    for (size_t row = 0; row < records.size(); ++row) {
      results_.append(key_of(done()), whole_record(batch, row, records[row]));
      targets_.push_back(batch.targets());
    }
    checkpoint_.forget();
    batch.documents.clear();
  }

  std::vector<io::json> records_of(const Batch& batch, Measuring& measuring) {
    try {
      return task_.measure(batch, measuring);
    } catch (const Error& error) {
      if (error.kind() == Error::Kind::Interrupted)
        checkpoint_.stop();
      throw;
    }
  }

  io::json whole_record(const Batch& batch, size_t row, io::json record) const {
    const io::Document& document = batch.documents[row];
    record["document"] = batch.first + static_cast<int64_t>(row);
    record["name"] = document.name;
    record["targets"] = batch.targets();
    if (!document.boundaries.empty())
      record["boundaries"] = as_json(document.boundaries);
    return record;
  }

  void conclude() {
    if (!results_.done("summary")) {
      io::json summary = task_.summarise(targets_);
      summary["documents"] = done();
      summary["skipped"] = as_json(source_.skipped());
      summary["leftover_tokens"] = source_.leftover_tokens();
      results_.append("summary", summary);
    }
    task_.conclude(targets_);
    results_.finish();
  }

  int64_t done() const { return static_cast<int64_t>(targets_.size()); }

  DocumentTask& task_;
  io::TokenSource& source_;
  io::Results& results_;
  Checkpoint& checkpoint_;
  const OnProgress& on_progress_;
  std::optional<Snapshot> resumed_;
  std::vector<int64_t> targets_;  // of each document that is done
  Progress progress_;
};

}  // namespace

void Measuring::begin(int64_t total, int64_t done) {
  progress_.total = total;
  progress_.done = done;
}

void Measuring::advance(int64_t done, int64_t fed) {
  progress_.done = done;
  progress_.done_by_process += fed;
  on_progress_(progress_);
}

void Measuring::reached(const std::function<void(Snapshot&)>& fill) {
  checkpoint_.reached([&] {
    Snapshot snapshot{.place = place_};
    fill(snapshot);
    return snapshot;
  });
}

io::json run_documents(DocumentTask& task,
                       io::TokenSource& source,
                       io::Results& results,
                       Checkpoint& checkpoint,
                       const OnProgress& on_progress) {
  return Run(task, source, results, checkpoint, on_progress).run();
}

Tensor tokens_of(const Batch& batch, int64_t rows) {
  std::vector<Tensor> parts;
  for (int64_t row = 0; row < rows; ++row) {
    const io::Document& document =
        batch.documents[static_cast<size_t>(row < batch.rows() ? row : 0)];
    parts.push_back(at::tensor(at::ArrayRef<int32_t>(document.tokens)));
  }
  return at::stack(parts);
}

}  // namespace stuffed::eval
