#include "stuffed/io/hub_cache.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <vector>

#include "stuffed/core/error.h"
#include "stuffed/io/regular_file.h"

namespace stuffed::io {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kModels = "models--";
constexpr size_t kCommitDigits = 40, kFewestDigits = 7;

struct Repository {
  std::string name, revision;  // "owner/name"; "" for main

  /// "models--owner--name"
  std::string folder() const {
    std::string text(kModels);
    for (const char c : name)
      text += c == '/' ? std::string("--") : std::string(1, c);
    return text;
  }
  std::string command() const {
    return fmt::format("hf download {}{}", name,
                       revision.empty() ? "" : fmt::format(" --revision {}", revision));
  }
};

bool is_commit(std::string_view text, size_t digits) {
  return text.size() >= digits && text.size() <= kCommitDigits &&
         text.find_first_not_of("0123456789abcdef") == text.npos;
}

/// OWNER/NAME[@REVISION], or NAME alone, which the oldest repositories have.
std::optional<Repository> parse(const std::string& given) {
  const size_t at = given.find('@');
  const Repository found = {.name = given.substr(0, at),
                            .revision = at == given.npos ? "" : given.substr(at + 1)};
  const auto is_part = [](std::string_view part) {
    const auto is_allowed = [](unsigned char c) {
      return std::isalnum(c) || c == '-' || c == '_' || c == '.';
    };
    return !part.empty() && part.front() != '.' && std::ranges::all_of(part, is_allowed);
  };
  const std::string_view name = found.name;
  const size_t slash = name.find('/');
  const bool is_name = slash == name.npos
                           ? is_part(name)
                           : is_part(name.substr(0, slash)) && is_part(name.substr(slash + 1));
  const bool has_revision = at == given.npos || (!found.revision.empty() &&
                                                 found.revision.find("..") == std::string::npos);
  return is_name && has_revision ? std::optional(found) : std::nullopt;
}

fs::path cache_folder() {
  const auto from = [](const char* variable) {
    const char* value = std::getenv(variable);
    return fs::path(value ? value : "");
  };
  for (const char* variable : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"})
    if (const fs::path cache = from(variable); !cache.empty())
      return cache;
  if (const fs::path home = from("HF_HOME"); !home.empty())
    return home / "hub";
  const fs::path shared = from("XDG_CACHE_HOME");
  return (shared.empty() ? from("HOME") / ".cache" : shared) / "huggingface" / "hub";
}

/// The commit that a branch or tag stands for; "" if the cache knows none of that name.
std::string commit_of(const fs::path& repository, const std::string& revision) {
  const fs::path reference = repository / "refs" / revision;
  std::error_code error;
  if (!fs::is_regular_file(reference, error))
    return "";
  const std::string text = read_regular_file(reference);
  const std::string commit = text.substr(0, text.find_last_not_of(" \r\n") + 1);
  return is_commit(commit, kCommitDigits) ? commit : "";
}

/// The snapshots whose commits begin so.
std::vector<fs::path> snapshots_of(const fs::path& repository, const std::string& commit) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(repository / "snapshots", error))
    if (entry.path().filename().string().starts_with(commit))
      found.push_back(entry.path());
  return found;
}

std::optional<fs::path> find(const fs::path& folder, const Repository& asked) {
  std::string commit = commit_of(folder, asked.revision.empty() ? "main" : asked.revision);
  if (commit.empty() && is_commit(asked.revision, kFewestDigits))
    commit = asked.revision;
  if (commit.empty())
    return std::nullopt;
  const std::vector<fs::path> found = snapshots_of(folder, commit);
  check(found.size() < 2, Error::Kind::Input,
        "{}@{}: {} commits in the cache begin like this; give more digits", asked.name,
        asked.revision, found.size());
  return found.empty() ? std::nullopt : std::optional(found.front());
}

}  // namespace

fs::path find_checkpoint(const std::string& given, const std::string& option) {
  std::error_code error;
  const std::optional<Repository> asked = parse(given);
  if (!asked || fs::exists(given, error))
    return given;
  const fs::path folder = cache_folder() / asked->folder();
  if (const auto snapshot = find(folder, *asked))
    return *snapshot;
  if (asked->name.find('/') == std::string::npos && asked->revision.empty())
    return given;
  const bool has_others = fs::is_directory(folder, error);
  fail(Error::Kind::Input,
       "{}: no such file or folder ({}), and {} in Hugging Face's cache, {}; fetch it with: {}",
       given, option, has_others ? "no such revision of it" : "no repository of this name",
       folder.string(), asked->command());
}

std::optional<HubSnapshot> snapshot_of(const fs::path& path) {
  for (fs::path at = path; at.has_relative_path(); at = at.parent_path()) {
    const std::string commit = at.filename().string();
    const fs::path snapshots = at.parent_path();
    const std::string repository = snapshots.parent_path().filename().string();
    if (!is_commit(commit, kCommitDigits) || snapshots.filename() != "snapshots" ||
        !repository.starts_with(kModels))
      continue;
    std::string name = repository.substr(kModels.size());
    // Hugging Face allows no "--" in a name.
    if (const size_t seam = name.find("--"); seam != std::string::npos)
      name.replace(seam, 2, "/");
    return HubSnapshot{.name = name, .commit = commit};
  }
  return std::nullopt;
}

std::string why_absent(const fs::path& folder, const std::string& file) {
  const auto snapshot = snapshot_of(folder);
  if (!snapshot)
    return "";
  const fs::path repository = folder.parent_path().parent_path();
  std::error_code error;
  if (fs::exists(repository / ".no_exist" / snapshot->commit / file, error))
    return fmt::format(" (the repository {} has no {})", snapshot->name, file);
  return fmt::format(" (if {} has it, fetch it with: hf download {} {} --revision {})",
                     snapshot->name, snapshot->name, file, snapshot->commit);
}

}  // namespace stuffed::io
