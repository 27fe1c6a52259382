// Ties a file of arrays to its journal. A folder of parts holds the run's id, so that two journals
// never gather in one place; the finished file holds the run's signature, which is the same
// whenever the same command is run, so that its bytes are.
#include "stuffed/io/sidecar.h"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "stuffed/core/error.h"
#include "stuffed/io/in_use.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::io {

namespace fs = std::filesystem;

namespace {

constexpr const char* kSignatureKey = "run_sha256";
constexpr const char* kOwner = "run.json";
constexpr const char* kOldPart = "nll";  // what a single raw file of older versions is

fs::path partial_of(const fs::path& path) {
  return fs::path(path).concat(".partial");
}

bool same_file(const fs::path& a, const fs::path& b) {
  std::error_code error;
  return fs::equivalent(a, b, error) && !error;
}

/// A tensor that every file of this schema holds: tells those of older versions, which have no
/// signature.
const char* tensor_of(const std::string& schema) {
  return schema == "stuffed.ppl_by_length" ? "nll"
         : schema == "stuffed.state_stats" ? "positions"
                                           : "half_life_tokens";
}

/// The run that a folder of parts names.
struct Owner {
  std::string id;
  fs::path journal;  // empty: no file
  bool named = false;

  bool is(const JournalIdentity& run) const {
    return named && id == run.id && (!id.empty() || same_file(journal, run.journal));
  }
  /// Nothing can go on with these parts: their run was begun anew, or could not be resumed.
  bool is_over(const JournalIdentity& run) const {
    return named && (journal.empty() || same_file(journal, run.journal));
  }
};

Owner read_owner(const fs::path& partial) {
  std::error_code error;
  const fs::path file = partial / kOwner;
  if (!fs::is_regular_file(file, error) || fs::file_size(file, error) == 0)
    return {};
  const json fields = read_json(file);
  const auto text = [&](const char* key) {
    return fields.is_object() && fields.contains(key) && fields.at(key).is_string()
               ? fields.at(key).get<std::string>()
               : std::string();
  };
  const std::string journal = text("journal");
  return {.id = text("run_id"),
          .journal = journal.empty() ? fs::path() : partial / journal,
          .named = true};
}

std::string describe(const Owner& owner) {
  return owner.journal.empty() ? "" : fmt::format(" ({})", owner.journal.filename().string());
}

/// Of a finished file: what it says of its run.
/// Errors  Input if it is no such file
struct Finished {
  std::string signature;
  bool has_tensor = false;
};
Finished read_finished(const fs::path& path, const std::string& schema) {
  const char* const foreign =
      "{}: exists and holds no arrays of stuffed; it is left as it is; choose another file";
  std::error_code error;
  check(fs::is_regular_file(path, error), Error::Kind::Output,
        "{}: is a folder, a device or a pipe; name a file", path.string());
  try {
    const TensorFile file = TensorFile::open(path);
    const auto found = file.metadata().find(kSignatureKey);
    const Finished finished{.signature = found == file.metadata().end() ? "" : found->second,
                            .has_tensor = file.has(tensor_of(schema))};
    check(!finished.signature.empty() || finished.has_tensor, Error::Kind::Input,
          fmt::runtime(foreign), path.string());
    return finished;
  } catch (const Error& problem) {
    if (problem.kind() != Error::Kind::Input)
      throw;
    fail(Error::Kind::Input, fmt::runtime(foreign), path.string());
  }
}

/// Is the finished file that of `run`? Runs of older versions left it unsigned.
bool is_of(const Finished& file, const JournalIdentity& run) {
  return file.signature == run.signature || (file.signature.empty() && run.id.empty());
}

[[noreturn]] void refuse(const fs::path& path, const std::string& whose) {
  fail(Error::Kind::Usage, "{}: belongs to another run{}; name another file, or move this one away",
       path.string(), whose);
}

/// Parts without an owner were left by an older version.
bool has_old_parts(const fs::path& partial) {
  std::error_code error;
  return fs::exists(partial, error) && !fs::is_empty(partial, error);
}

/// The old raw file becomes a part in the folder that takes its name.
void enclose_old_file(const fs::path& partial) {
  std::error_code error;
  if (!fs::is_regular_file(partial, error))
    return;
  const fs::path aside = fs::path(partial).concat(".old");
  fs::rename(partial, aside, error);
  if (!error)
    fs::create_directory(partial, error);
  if (!error)
    fs::rename(aside, partial / kOldPart, error);
  check(!error, Error::Kind::Output, "{}: cannot be written: {}", partial.string(),
        error.message());
}

}  // namespace

fs::path sidecar_beside(const fs::path& journal) {
  return journal.extension() == ".jsonl" ? fs::path(journal).replace_extension(".safetensors")
                                         : fs::path(journal).concat(".safetensors");
}

/// The folder PATH.partial, locked by its file that names the run.
struct Sidecar::Claim {
  fs::path folder;
  int lock = -1;
  bool is_ours = false;

  explicit Claim(const fs::path& path) : folder(partial_of(path)) {}
  ~Claim() {
    remove_if_bare();
    if (lock >= 0)
      ::close(lock);
  }

  void take_lock();
  void write_owner(const JournalIdentity& run) const;
  void remove_parts() const;
  void remove_if_bare() const;
};

void Sidecar::Claim::take_lock() {
  const std::string file = (folder / kOwner).string();
  for (int tries = 0; tries < 100; ++tries) {
    std::error_code error;
    fs::create_directories(folder, error);
    lock = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    check(lock >= 0 || errno == ENOENT, Error::Kind::Output, "{}: cannot be written: {}", file,
          std::strerror(errno));
    if (lock < 0)
      continue;
    // Some network file systems know no locks; there two processes remain the user's care.
    const bool taken = ::flock(lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (taken)
      throw InUse(fmt::format(
          "{}: another process is writing it; wait for it, or name another file", folder.string()));
    struct stat ours = {}, there = {};
    if (::fstat(lock, &ours) == 0 && ::stat(file.c_str(), &there) == 0 &&
        ours.st_ino == there.st_ino && ours.st_dev == there.st_dev)
      return;
    ::close(lock);  // its run ended and removed it since we opened it
    lock = -1;
  }
  fail(Error::Kind::Output, "{}: cannot be written: it keeps vanishing", file);
}

void Sidecar::Claim::write_owner(const JournalIdentity& run) const {
  json fields = {{"run_id", run.id}, {"journal", nullptr}};
  if (!run.journal.empty())
    fields["journal"] =
        fs::absolute(run.journal).lexically_proximate(fs::absolute(folder)).generic_string();
  const std::string text = fields.dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  const bool written =
      ::ftruncate(lock, 0) == 0 &&
      ::pwrite(lock, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()) &&
      ::fsync(lock) == 0;
  if (written)
    return;
  const int why = errno;
  const bool cut = ::ftruncate(lock, 0) == 0;  // half a name would be no one's
  fail(Error::Kind::Output, "{}: cannot be written: {}", (folder / kOwner).string(),
       std::strerror(cut ? why : errno));
}

void Sidecar::Claim::remove_parts() const {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().filename() != kOwner)
      fs::remove_all(entry.path(), error);
}

/// A run that was refused leaves no folder behind.
void Sidecar::Claim::remove_if_bare() const {
  std::error_code error;
  if (!is_ours || !fs::is_directory(folder, error))
    return;
  for (const auto& entry : fs::directory_iterator(folder, error))
    if (entry.path().filename() != kOwner &&
        (!entry.is_regular_file(error) || entry.file_size(error) > 0))
      return;
  fs::remove_all(folder, error);
}

Sidecar::Sidecar(fs::path path, const Journal& journal) : path_(std::move(path)) {
  if (path_.empty())
    return;
  const JournalIdentity& run = journal.identity();
  signature_ = run.signature;
  std::error_code error;
  const bool is_there = fs::exists(path_, error);
  if (journal.finished()) {
    check(is_there, Error::Kind::Input,
          "{}: is missing, though {} is finished; --overwrite makes both anew", path_.string(),
          run.journal.string());
    check(is_of(read_finished(path_, run.schema), run), Error::Kind::Input,
          "{}: holds the arrays of another run than {}; put the right file back, or make both "
          "anew with --overwrite",
          path_.string(), run.journal.string());
  } else if (is_there) {
    const Finished file = read_finished(path_, run.schema);
    if (journal.replaced() && is_of(file, *journal.replaced()))
      fs::remove(path_, error);
    else if (!is_of(file, run) || (journal.size() == 0 && !run.journal.empty()))
      refuse(path_, "");
  }
  const fs::path partial = partial_of(path_);
  if (journal.finished() && !read_owner(partial).is(run))
    return;
  if (fs::is_regular_file(partial, error) && fs::is_empty(partial, error))
    fs::remove(partial, error);  // of an older version that was refused
  if (!fs::exists(partial / kOwner, error) && has_old_parts(partial)) {
    const bool begun_anew = journal.replaced() && journal.replaced()->id.empty();
    if (journal.size() == 0 && !begun_anew)
      refuse(partial, "");
    enclose_old_file(partial);
  }
  auto claim = std::make_unique<Claim>(path_);
  claim->take_lock();
  const Owner owner = read_owner(partial);
  if (owner.named && !owner.is(run) && !owner.is_over(run))
    refuse(partial, describe(owner));
  claim_ = std::move(claim);
  claim_->is_ours = true;
  if (owner.is(run))
    return;
  if (owner.named || journal.size() == 0)
    claim_->remove_parts();
  claim_->write_owner(run);
}

Sidecar::~Sidecar() = default;
Sidecar::Sidecar(Sidecar&&) noexcept = default;
Sidecar& Sidecar::operator=(Sidecar&&) noexcept = default;

fs::path Sidecar::part(std::string_view name) const {
  return partial_of(path_) / name;
}

void Sidecar::adopt(const fs::path& from, std::string_view name) const {
  std::error_code error;
  if (claim_ && fs::is_regular_file(from, error) && !fs::exists(part(name), error))
    fs::rename(from, part(name), error);
}

void Sidecar::write(const Tensors& tensors, std::map<std::string, std::string> metadata) const {
  if (path_.empty())
    return;
  metadata[kSignatureKey] = signature_;
  write_safetensors(path_, tensors, metadata);
}

void Sidecar::remove_partial() const {
  if (!claim_)
    return;
  claim_->remove_parts();
  claim_->remove_if_bare();
}

void check_sidecar(const fs::path& path, const fs::path& journal) {
  std::error_code error;
  if (path.empty() || journal == "-" ||
      (fs::exists(journal, error) && !fs::is_regular_file(journal, error)))
    return;
  JournalIdentity run{.id = {}, .signature = {}, .schema = {}, .journal = journal};
  bool is_new = true;
  if (fs::exists(journal, error)) {
    const JournalEnd found = read_journal(journal, [&](const json&, LinePlace) { is_new = false; });
    if (!found.empty)
      run = identify(journal, found.header);
  }
  if (fs::exists(path, error)) {
    const Finished file = read_finished(path, run.schema);
    if (is_new || !is_of(file, run))
      refuse(path, "");
  }
  const Owner owner = read_owner(partial_of(path));
  if (owner.named && !owner.is(run) && !owner.is_over(run))
    refuse(partial_of(path), describe(owner));
}

}  // namespace stuffed::io
