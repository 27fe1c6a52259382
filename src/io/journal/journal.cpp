// Keeps a journal whole: whatever moment a process dies at, what is in the file are whole lines and
// at most one torn one, and the next process goes on where the last whole line ends.
#include "stuffed/io/journal.h"

#include <cerrno>
#include <cmath>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <map>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "pipe_output.h"
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/in_use.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::io {

namespace fs = std::filesystem;

namespace {

std::string dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

/// `first` opens the object, then come the fields of `rest`: what identifies a line is read first.
std::string line_of(const std::string& first, const json& rest) {
  return "{" + first + (rest.empty() ? "" : ",") + dump(rest).substr(1) + "\n";
}

std::string header_line(const JournalHeader& header) {
  return fmt::format("{{\"schema\":{},\"version\":{},\"config\":{},\"provenance\":{}}}\n",
                     dump(header.schema), header.version, dump(header.config),
                     dump(header.provenance));
}

bool all_finite(const json& value) {
  if (value.is_number_float())
    return std::isfinite(value.get<double>());
  if (!value.is_structured())
    return true;
  for (const json& element : value)
    if (!all_finite(element))
      return false;
  return true;
}

std::string text_of(const json& value) {
  return value.is_null() ? "nothing" : dump(value);
}

/// Somebody may have edited what is read back.
void check_record(const JournalHeader& header, const json& record, const fs::path& path) {
  if (!header.check_record)
    return;
  const auto refuse = [&](std::string_view why) {
    fail(Error::Kind::Input, "{}: the record '{}' is not such as this command writes: {}",
         path.string(), record.at("key").get<std::string>(), why);
  };
  try {
    header.check_record(record);
  } catch (const Error& error) {
    refuse(error.what());
  } catch (const json::exception& error) {
    refuse(reason_of(error));
  }
}

/// Says where `there` first differs from `here`, as "field: 1 there, 2 here"; empty if they are
/// equal.
std::string first_difference(const json& there, const json& here, const std::string& field) {
  if (there == here)
    return {};
  if (!there.is_object() || !here.is_object())
    return fmt::format("{}: {} there, {} here", field, text_of(there), text_of(here));
  json keys = there;
  keys.update(here);
  for (const auto& [key, unused] : keys.items()) {
    const std::string found =
        first_difference(there.value(key, json()), here.value(key, json()), field + "." + key);
    if (!found.empty())
      return found;
  }
  return field + ": a field is null on one side and missing on the other";
}

void check_same_schema(const fs::path& path,
                       const JournalHeader& there,
                       const JournalHeader& here) {
  check(there.schema == here.schema, Error::Kind::Usage,
        "{}: holds a run of schema '{}', not '{}'; choose another -o", path.string(), there.schema,
        here.schema);
}

void check_same_run(const fs::path& path, const JournalHeader& there, const JournalHeader& here) {
  check_same_schema(path, there, here);
  check(there.version <= here.version, Error::Kind::Input,
        "{}: has version {} of schema '{}', but this stuffed knows only up to version {}; use the "
        "newer stuffed, or "
        "another -o",
        path.string(), there.version, there.schema, here.version);
  check(there.version == here.version, Error::Kind::Usage,
        "{}: the field version differs: {} there, {} here (schema '{}'); choose another -o, or "
        "--overwrite to start anew",
        path.string(), there.version, here.version, there.schema);
  const std::string difference =
      first_difference(there.config, json::parse(dump(here.config)), "config");
  check(difference.empty(), Error::Kind::Usage,
        "{}: holds a run that differs in {}; choose another -o, or --overwrite to start anew",
        path.string(), difference);
}

std::string text_in(const json& provenance, const char* key) {
  const json value = provenance.is_object() ? provenance.value(key, json()) : json();
  return value.is_string() ? value.get<std::string>() : std::string();
}

/// A process that goes on has no run of its own.
json without_id(json provenance) {
  if (provenance.is_object())
    provenance.erase("run_id");
  return provenance;
}

[[noreturn]] void fail_to_write(const fs::path& path, int error) {
  fail(Error::Kind::Output, "{}: cannot be written: {}", path.string(), std::strerror(error));
}

/// What becomes of the records that are there.
enum class Existing { GoesOn, SameRun, Any };

}  // namespace

JournalIdentity identify(const fs::path& journal, const JournalHeader& header) {
  return {.id = text_in(header.provenance, "run_id"),
          .signature = sha256(dump(json::array({header.schema, header.version, header.config}))),
          .schema = header.schema,
          .journal = journal};
}

struct Journal::Impl {
  fs::path path;
  int fd = -1;
  bool is_file = true;  // false: a pipe or device, which can be neither read back nor cut
  JournalIdentity identity;
  std::optional<JournalIdentity> replaced;
  int64_t end_bytes = 0;
  bool finished = false;
  std::string header_hash;
  std::map<std::string, LinePlace, std::less<>> places;
  std::map<std::string, std::string, std::less<>> lines;  // only where they cannot be read back

  ~Impl() {
    if (fd >= 0)
      ::close(fd);  // and with it the lock
  }

  void open_file();
  void lock();
  int write_all(const std::string& line);
  void write_line(const std::string& line);
  void write_header(const JournalHeader& header);
  fs::path state_path() const { return is_file ? fs::path(path).concat(".state") : fs::path(); }
  void resume(const JournalHeader& header);
  void clear(const JournalHeader& header, bool of_other_runs);
  static Journal begin(const fs::path& path, const JournalHeader& header, Existing existing);
};

void Journal::Impl::open_file() {
  std::error_code ignored;  // open() then says why
  if (path == "-") {
    fd = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
  } else if (fs::is_fifo(path, ignored)) {
    fd = open_fifo(path);
  } else {
    check(!fs::is_block_file(path, ignored), Error::Kind::Output,
          "{}: is a block device, which is left alone; name a file", path.string());
    make_folder_of(path);
    fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  }
  struct stat status = {};
  if (fd < 0 || ::fstat(fd, &status) != 0)
    fail_to_write(path, errno);
  is_file = S_ISREG(status.st_mode) && path != "-";
}

void Journal::Impl::lock() {
  // Some network file systems know no locks; there two processes on one file remain the user's
  // care.
  const bool taken = ::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  if (taken)
    throw InUse(fmt::format("{}: another process is writing it; wait for it, or choose another -o",
                            path.string()));
}

/// Returns 0, or the errno that stopped it.
int Journal::Impl::write_all(const std::string& line) {
  if (!is_file)
    return write_pipe(fd, line);
  for (size_t written = 0; written < line.size();) {
    const char* const data = line.data() + written;
    const size_t bytes = line.size() - written;
    const ssize_t n = ::pwrite(fd, data, bytes, end_bytes + static_cast<int64_t>(written));
    if (n < 0 && errno != EINTR)
      return errno;
    if (n == 0)
      return ENOSPC;
    written += static_cast<size_t>(std::max<ssize_t>(n, 0));
  }
  return ::fdatasync(fd) != 0 ? errno : 0;
}

void Journal::Impl::write_line(const std::string& line) {
  if (const int error = write_all(line); error != 0) {
    // Cutting needs no space. Should it fail all the same, a torn line is left, which the next run
    // cuts.
    const bool cut = !is_file || ::ftruncate(fd, end_bytes) == 0;
    fail_to_write(path, cut ? error : errno);
  }
  end_bytes += static_cast<int64_t>(line.size());
}

void Journal::Impl::write_header(const JournalHeader& header) {
  const std::string line = header_line(header);
  header_hash = sha256(line);
  write_line(line);
}

void Journal::Impl::resume(const JournalHeader& header) {
  std::exception_ptr strange;  // thrown once it is known that the records are this run's
  const auto on_record = [&](const json& record, LinePlace place) {
    const std::string key = record.at("key").get<std::string>();
    try {
      if (!strange)
        check_record(header, record, path);
    } catch (const Error&) {
      strange = std::current_exception();
    }
    check(places.emplace(key, place).second, Error::Kind::Input, "{}: has two records of key '{}'",
          path.string(), key);
  };
  JournalEnd found = read_journal(path, on_record);
  // A run whose input was refused leaves a header alone; it must not stand in the corrected one's
  // way.
  std::error_code ignored;
  const bool nothing_measured =
      !found.empty && !found.finished && places.empty() && !fs::exists(state_path(), ignored) &&
      found.header.schema == header.schema && found.header.version == header.version &&
      found.header.config != json::parse(dump(header.config));
  if (nothing_measured)
    found = {.header = {}, .commit = {}, .header_hash = {}, .empty = true};
  if (!found.empty)
    check_same_run(path, found.header, header);
  if (strange)
    std::rethrow_exception(strange);
  end_bytes = found.whole_bytes;
  finished = found.finished;
  header_hash = found.header_hash;
  if (::ftruncate(fd, end_bytes) != 0)
    fail_to_write(path, errno);
  if (found.empty) {
    write_header(header);
    // What an earlier run kept is of no use without its journal, which somebody removed.
    if (has_metadata(state_path(), kStateKey))
      fs::remove(state_path(), ignored);
  } else if (!finished && found.commit != text_in(header.provenance, "commit")) {
    write_line(line_of("\"resumed\":true", {{"provenance", without_id(header.provenance)}}));
  }
  identity = identify(path, found.empty ? header : found.header);
}

Journal::Journal(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Journal::~Journal() = default;
Journal::Journal(Journal&&) noexcept = default;
Journal& Journal::operator=(Journal&&) noexcept = default;

/// Empties the file. What is no journal is not ours to overwrite, nor is another command's.
void Journal::Impl::clear(const JournalHeader& header, bool of_other_runs) {
  int64_t records = 0;
  const JournalEnd found = read_journal(path, [&](const json&, LinePlace) { ++records; });
  if (!found.empty)
    of_other_runs ? check_same_schema(path, found.header, header)
                  : check_same_run(path, found.header, header);
  if (records > 0)
    replaced = identify(path, found.header);
  if (::ftruncate(fd, 0) != 0)
    fail_to_write(path, errno);
  std::error_code ignored;
  if (has_metadata(state_path(), kStateKey))
    fs::remove(state_path(), ignored);  // of the run that is overwritten
}

/// `existing` says what may be thrown away.
Journal Journal::Impl::begin(const fs::path& path, const JournalHeader& header, Existing existing) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->open_file();
  if (!impl->is_file) {
    impl->write_header(header);
    impl->identity = identify({}, header);
    return Journal(std::move(impl));
  }
  impl->lock();
  if (existing != Existing::GoesOn)
    impl->clear(header, existing == Existing::Any);
  impl->resume(header);
  return Journal(std::move(impl));
}

Journal Journal::open(const fs::path& path, const JournalHeader& header, bool overwrite) {
  return Impl::begin(path, header, overwrite ? Existing::Any : Existing::GoesOn);
}

Journal Journal::open_anew(const fs::path& path, const JournalHeader& header, bool overwrite) {
  return Impl::begin(path, header, overwrite ? Existing::Any : Existing::SameRun);
}

bool Journal::done(std::string_view key) const {
  return impl_->places.contains(key) || impl_->lines.contains(key);
}

std::vector<std::string> Journal::keys(std::string_view prefix) const {
  std::vector<std::string> found;
  for (auto at = impl_->places.lower_bound(prefix);
       at != impl_->places.end() && at->first.starts_with(prefix); ++at)
    found.push_back(at->first);
  for (auto at = impl_->lines.lower_bound(prefix);
       at != impl_->lines.end() && at->first.starts_with(prefix); ++at)
    found.push_back(at->first);
  return found;
}

json Journal::record(std::string_view key) const {
  if (const auto line = impl_->lines.find(key); line != impl_->lines.end())
    return json::parse(line->second);
  const auto place = impl_->places.find(key);
  check(place != impl_->places.end(), Error::Kind::Internal, "{}: has no record '{}'",
        impl_->path.string(), key);
  std::string line(static_cast<size_t>(place->second.bytes), '\0');
  const ssize_t n = ::pread(impl_->fd, line.data(), line.size(), place->second.offset_bytes);
  check(n == place->second.bytes, Error::Kind::Input, "{}: was changed while it was in use",
        impl_->path.string());
  return parse_json(line, impl_->path.string());
}

void Journal::append(std::string_view key, const json& fields) {
  check(!finished() && !done(key), Error::Kind::Internal,
        "{}: record '{}' comes twice or after the end", impl_->path.string(), key);
  check(fields.is_object() && !fields.contains("key"), Error::Kind::Internal,
        "record '{}' is not an object of fields", key);
  const bool owns_up = fields.contains("finite") && fields.at("finite") == false;
  check(owns_up || all_finite(fields), Error::Kind::Internal,
        "{}: record '{}' holds a number that is not finite without saying \"finite\": false",
        impl_->path.string(), key);
  const std::string line = line_of("\"key\":" + dump(std::string(key)), fields);
  const LinePlace place{.offset_bytes = impl_->end_bytes,
                        .bytes = static_cast<int64_t>(line.size()) - 1};
  impl_->write_line(line);
  if (impl_->is_file)
    impl_->places.emplace(key, place);
  else
    impl_->lines.emplace(key, line);
}

void Journal::finish(const json& fields) {
  if (finished())
    return;
  impl_->write_line(line_of(fmt::format("\"end\":true,\"records\":{}", size()), fields));
  impl_->finished = true;
}

bool Journal::finished() const {
  return impl_->finished;
}

const JournalIdentity& Journal::identity() const {
  return impl_->identity;
}

const std::optional<JournalIdentity>& Journal::replaced() const {
  return impl_->replaced;
}

int64_t Journal::size() const {
  return static_cast<int64_t>(impl_->places.size() + impl_->lines.size());
}

const std::string& Journal::header_hash() const {
  return impl_->header_hash;
}

fs::path Journal::state_path() const {
  return impl_->state_path();
}

}  // namespace stuffed::io
