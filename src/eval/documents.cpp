#include "documents.h"

#include <algorithm>
#include <string>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/documents_ahead.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::eval {

namespace {

constexpr const char* kPrefix = "document=";

std::string key_of(int64_t number) {
  return fmt::format("{}{}", kPrefix, number);
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

io::json as_json(const io::PipedInput& piped) {
  return {{"bytes", piped.bytes}, {"sha256", piped.sha256}};
}

/// So many that nobody reads the list to its end are counted only.
io::json as_json(const std::vector<io::BadLine>& bad) {
  constexpr size_t kListed = 10000;
  io::json lines = io::json::array();
  for (size_t i = 0; i < std::min(bad.size(), kListed); ++i)
    lines.push_back(bad[i].number);
  return {{"count", bad.size()}, {"lines", lines}};
}

/// Where a stopped run got to; of a pipe it also says which text that was.
std::string place_of(const io::Document& document) {
  return key_of(document.number) + (document.piped ? " " + document.piped->sha256 : "");
}

/// Tells documents of the same tokens from others, whatever they are called.
std::string hash_of(const std::vector<int32_t>& tokens) {
  return sha256(std::string_view(reinterpret_cast<const char*>(tokens.data()),
                                 tokens.size() * sizeof(int32_t)));
}

class DocumentLoop {
 public:
  DocumentLoop(DocumentTask& task,
               io::TokenSource& source,
               io::Journal& journal,
               Checkpoint& checkpoint,
               const OnProgress& on_progress)
      : task_(task),
        source_(source),
        journal_(journal),
        checkpoint_(checkpoint),
        on_progress_(on_progress) {}

  io::json run() {
    if (!journal_.finished()) {
      take_up();
      measure_all();
      conclude();
    } else {
      task_.check_finished();
    }
    task_.remove_partial();
    checkpoint_.remove();
    return journal_.record("summary");
  }

 private:
  /// What an earlier process did.
  void take_up() {
    for (const int64_t number : document_numbers(journal_))
      targets_.push_back(document_record(journal_, number).at("targets"));
    done_before_ = done();
    resumed_ = checkpoint_.load();
    if (resumed_ && journal_.done(resumed_->place.substr(0, resumed_->place.find(' '))))
      resumed_.reset();  // what it stopped at was measured since
    task_.keep(targets_, resumed_.has_value());
  }

  void measure_all() {
    Batch batch;
    io::DocumentsAhead documents(source_);
    for (int64_t index = 0; std::optional<io::Document> document = documents.next(); ++index) {
      if (is_done(index, *document))
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

  /// Documents are measured in order: those that are done come first.
  bool is_done(int64_t index, const io::Document& document) const {
    const std::string key = key_of(document.number);
    const bool is_there = journal_.done(key);
    check(is_there == (index < done_before_), Error::Kind::Input,
          "{}: holds later documents, but not '{}' ({}); the input has changed, or records were "
          "removed: give the same input, or --overwrite to start anew",
          journal_path(), key, document.name);
    check(
        !is_there || !document.piped ||
            journal_.record(key).value("piped", io::json()) == as_json(*document.piped),
        Error::Kind::Input,
        "{}: the pipe gives another text than when '{}' was measured; give the same text again, or "
        "--overwrite to start anew",
        journal_path(), key);
    return is_there;
  }

  std::string journal_path() const { return journal_.state_path().replace_extension().string(); }

  void measure(Batch& batch) {
    checkpoint_.stop_if_asked();
    progress_.document = batch.first;
    const std::string place = place_of(batch.documents.front());
    check(!resumed_ || resumed_->place == place, Error::Kind::Input,
          "{}: was saved in the middle of another document or text ('{}', but this is '{}'); give "
          "the same input again, or --overwrite to start anew",
          checkpoint_.path().string(), resumed_ ? resumed_->place : "", place);
    Measuring measuring(checkpoint_, std::exchange(resumed_, std::nullopt), place, progress_,
                        on_progress_);
    const std::vector<io::json> records = records_of(batch, measuring);
    for (size_t row = 0; row < records.size(); ++row) {
      journal_.append(key_of(batch.documents[row].number), whole_record(batch, row, records[row]));
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
    record["document"] = document.number;
    record["name"] = document.name;
    if (document.piped)
      record["piped"] = as_json(*document.piped);
    record["targets"] = batch.targets();
    record["tokens_sha256"] = hash_of(document.tokens);
    if (!document.boundaries.empty())
      record["boundaries"] = as_json(document.boundaries);
    return record;
  }

  void conclude() {
    if (!journal_.done("summary")) {
      io::json summary = summarise();
      summary["documents"] = done();
      summary["skipped"] = as_json(source_.skipped());
      summary["leftover_tokens"] = source_.leftover_tokens();
      if (source_.identity().contains("skip_bad_lines"))
        summary["bad_lines"] = as_json(source_.bad_lines());
      journal_.append("summary", summary);
    }
    task_.conclude(targets_);
    journal_.finish();
  }

  /// Each record was looked at by itself; those that an earlier process left must fit together,
  /// too.
  io::json summarise() const {
    try {
      return task_.summarise(targets_);
    } catch (const io::json::exception& error) {
      if (done_before_ == 0)
        throw;
      fail(Error::Kind::Input,
           "{}: its records do not fit together ({}); put the journal back as it was, or start "
           "anew with --overwrite",
           journal_path(), io::reason_of(error));
    }
  }

  int64_t done() const { return static_cast<int64_t>(targets_.size()); }

  DocumentTask& task_;
  io::TokenSource& source_;
  io::Journal& journal_;
  Checkpoint& checkpoint_;
  const OnProgress& on_progress_;
  std::optional<Snapshot> resumed_;
  std::vector<int64_t> targets_;  // of each document that is done
  int64_t done_before_ = 0;       // of these: by an earlier process
  Progress progress_;
};

}  // namespace

std::vector<int64_t> document_numbers(const io::Journal& journal) {
  std::vector<int64_t> numbers;
  for (const std::string& key : journal.keys(kPrefix))
    numbers.push_back(std::stoll(key.substr(std::string_view(kPrefix).size())));
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

io::json document_record(const io::Journal& journal, int64_t number) {
  return journal.record(key_of(number));
}

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
                       io::Journal& journal,
                       Checkpoint& checkpoint,
                       const OnProgress& on_progress) {
  return DocumentLoop(task, source, journal, checkpoint, on_progress).run();
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
