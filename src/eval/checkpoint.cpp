#include "stuffed/eval/checkpoint.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::eval {

namespace fs = std::filesystem;

namespace {

constexpr const char* kVersion = "1";
// Where a segment takes longer, the next may be left in the middle, and needs a place to go back
// to.
constexpr double kSlowSeconds = 1;

std::string field(const io::TensorFile& file, const char* name) {
  const auto found = file.metadata().find(name);
  check(found != file.metadata().end(), Error::Kind::Input,
        "{}: was not left by a run that stopped (its metadata lacks {}); remove it to begin its "
        "document again",
        file.path().string(), name);
  return found->second;
}

/// Only on a CPU is a segment ever left in the middle; on a GPU the memory is worth more.
bool is_on_cpu(const Snapshot& snapshot) {
  return std::all_of(snapshot.tensors.begin(), snapshot.tensors.end(),
                     [](const auto& entry) { return entry.second.is_cpu(); });
}

}  // namespace

void Snapshot::check_that(bool good) const {
  check(good, Error::Kind::Input, "{}: is damaged; remove it to begin its document again", where);
}

const Tensor& Snapshot::at(const std::string& name, at::ScalarType dtype, int64_t axes) const {
  const auto found = tensors.find(name);
  check_that(found != tensors.end() && found->second.scalar_type() == dtype &&
             found->second.dim() == axes);
  return found->second;
}

int64_t Snapshot::integer(const std::string& name, int64_t least, int64_t most) const {
  const auto found = fields.find(name);
  check_that(found != fields.end() && found->is_number_integer());
  const auto value = found->get<int64_t>();
  check_that(least <= value && value <= most);
  return value;
}

std::vector<std::string> Snapshot::strings(const std::string& name) const {
  const auto found = fields.find(name);
  check_that(found != fields.end() && found->is_array());
  std::vector<std::string> values;
  for (const io::json& value : *found) {
    check_that(value.is_string());
    values.push_back(value);
  }
  return values;
}

Checkpoint::Checkpoint(const io::Journal& journal, double save_every_seconds)
    : journal_(journal), path_(journal.state_path()), save_every_seconds_(save_every_seconds) {}

std::optional<Snapshot> Checkpoint::load() const {
  std::error_code ignored;
  if (path_.empty() || !fs::exists(path_, ignored))
    return std::nullopt;
  const io::TensorFile file = io::TensorFile::open(path_);
  const std::string where = path_.string();
  check(field(file, io::kStateKey) == kVersion, Error::Kind::Input,
        "{}: has another version than this build reads ({}); remove it to begin its document again",
        where, kVersion);
  const io::json fields = io::parse_json(field(file, "fields"), where);
  check(fields.is_object() && fields.contains("records") &&
            fields.at("records").is_number_integer() && fields.contains("task") &&
            fields.at("task").is_object(),
        Error::Kind::Input, "{}: is damaged; remove it to begin its document again", where);
  check(field(file, "journal") == journal_.header_hash() &&
            fields.at("records").get<int64_t>() <= journal_.size(),
        Error::Kind::Input,
        "{}: belongs to another run than the journal beside it; remove it, give another -o, or "
        "start anew with --overwrite",
        where);
  Snapshot snapshot{.place = field(file, "place"), .fields = fields.at("task"), .where = where};
  for (const auto& [name, entry] : file.entries())
    snapshot.tensors[name] = file.load(name);
  return snapshot;
}

void Checkpoint::reached(const std::function<Snapshot()>& snapshot) {
  using Seconds = std::chrono::duration<double>;
  const Clock::time_point now = Clock::now();
  const bool is_time =
      save_every_seconds_ > 0 && Seconds(now - saved_at_).count() >= save_every_seconds_;
  const bool is_slow = Seconds(now - reached_at_).count() > kSlowSeconds;
  reached_at_ = now;
  last_.reset();  // first, so that no third state exists
  if (interrupted() || is_time || is_slow)
    last_ = snapshot();
  if (interrupted())
    stop();
  if (is_time)
    write();
  if (last_ && !is_on_cpu(*last_))
    last_.reset();
}

void Checkpoint::stop() {
  if (last_)
    write();
  check(!path_.empty(), Error::Kind::Interrupted,
        "stopped by {}; results that do not go to a file cannot be resumed: give -o a file name to "
        "be able to resume",
        signal_name());
  fail(Error::Kind::Interrupted,
       "stopped by {}; what was measured so far is kept: run the same command again to resume",
       signal_name());
}

void Checkpoint::stop_if_asked() {
  if (interrupted())
    stop();
}

void Checkpoint::forget() {
  last_.reset();
}

void Checkpoint::remove() const {
  std::error_code ignored;
  if (io::has_metadata(path_, io::kStateKey))
    fs::remove(path_, ignored);
}

void Checkpoint::write() {
  saved_at_ = Clock::now();
  if (path_.empty())
    return;
  const io::json fields = {{"records", journal_.size()}, {"task", last_->fields}};
  io::write_safetensors(path_, {last_->tensors.begin(), last_->tensors.end()},
                        {{io::kStateKey, kVersion},
                         {"journal", journal_.header_hash()},
                         {"place", last_->place},
                         {"fields", fields.dump()}});
}

}  // namespace stuffed::eval
