#include "stuffed/io/output_guard.h"

#include <optional>
#include <sys/stat.h>
#include <unistd.h>

#include "stuffed/core/error.h"
#include "stuffed/io/json.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::io {

namespace fs = std::filesystem;

namespace {

/// The descriptor that a path such as /dev/stdout or /proc/self/fd/1 leads to.
std::optional<int> descriptor_of(fs::path path) {
  std::error_code error;
  const fs::path own = fs::canonical("/proc/self/fd", error);
  for (int links = 0; !error && links < 40; ++links) {
    const fs::path folder =
        fs::canonical(path.has_parent_path() ? path.parent_path() : fs::path("."), error);
    const std::string name = path.filename().string();
    if (!error && folder == own && !name.empty() && name.size() < 6 &&
        name.find_first_not_of("0123456789") == name.npos)
      return std::stoi(name);
    if (error || !fs::is_symlink(path, error))
      return {};
    const fs::path target = fs::read_symlink(path, error);
    path = target.is_absolute() ? target : folder / target;
  }
  return {};
}

/// Files by which a model's folder is read; results may lie among them.
bool is_models(const std::string& name) {
  const auto begins = [&](std::string_view with) { return name.starts_with(with); };
  const bool is_weights = begins("model") || begins("pytorch_model") || begins("consolidated") ||
                          name.ends_with(".pth") || name.ends_with(".st") ||
                          name.ends_with(".index.json");
  const bool is_text = begins("config") || begins("params") || begins("generation_config") ||
                       begins("tokenizer") || begins("rwkv_vocab") || begins("vocab") ||
                       begins("merges") || begins("special_tokens") || begins("added_tokens") ||
                       begins("stuffed_tokenizer");
  return (is_weights || is_text) && !name.ends_with(".jsonl");
}

/// The files that an index of shards names; none if it is not understood, which its reader will
/// say.
std::vector<std::string> shards_of(const fs::path& index) {
  std::error_code error;
  std::vector<std::string> shards;
  if (!fs::is_regular_file(index, error))
    return shards;
  try {
    const json fields = read_json(index);
    for (const json& shard : fields.at("weight_map"))
      shards.push_back(shard.get<std::string>());
  } catch (const std::exception&) {
  }
  return shards;
}

}  // namespace

bool OutputGuard::File::is(const File& other) const {
  return is_there && other.is_there ? device == other.device && inode == other.inode
                                    : path == other.path;
}

OutputGuard::File OutputGuard::look_at(std::string_view flag, const fs::path& path) {
  std::error_code error;
  const fs::path whole = fs::absolute(path, error);
  File file{.flag = std::string(flag), .path = fs::weakly_canonical(whole, error)};
  if (error)  // a loop of links, or a name that is too long: whoever opens it will say so
    file.path = whole.lexically_normal();
  for (int links = 0; links < 40 && fs::is_symlink(file.path, error); ++links) {  // to nothing yet
    const fs::path target = fs::read_symlink(file.path, error);
    file.path =
        (target.is_absolute() ? target : file.path.parent_path() / target).lexically_normal();
  }
  struct stat status = {};
  if (::stat(path.c_str(), &status) == 0) {
    file.is_there = true;
    file.device = status.st_dev;
    file.inode = status.st_ino;
  }
  return file;
}

void OutputGuard::add_input(std::string_view flag, const fs::path& path) {
  if (const File file = look_at(flag, path); file.is_there)
    inputs_.push_back(file);
}

void OutputGuard::reads(std::string_view flag, const fs::path& path) {
  if (path.empty())
    return;
  std::error_code error;
  if (fs::is_directory(path, error))
    reads_model(flag, path);
  else
    add_input(flag, path == "-" ? fs::path("/dev/stdin") : path);
}

void OutputGuard::reads_model(std::string_view flag, const fs::path& path) {
  std::error_code error;
  if (path.empty() || !fs::exists(path, error))
    return;
  fs::path folder = path;
  if (!fs::is_directory(path, error)) {
    add_input(flag, path);
    folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  }
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (is_models(name))
      add_input(flag, entry.path());
    if (name.ends_with(".index.json"))
      for (const std::string& shard : shards_of(entry.path()))
        add_input(flag, folder / shard);
  }
}

void OutputGuard::writes(std::string_view flag, const fs::path& path) {
  if (path.empty() || path == "-")
    return;
  const File file = look_at(flag, path);
  for (const File& input : inputs_)
    check(!file.is(input), Error::Kind::Usage,
          "{} {}: is read by this run ({}) and would be lost; name another file", flag,
          path.string(), input.flag);
  for (const File& output : outputs_)
    check(!file.is(output), Error::Kind::Usage,
          "{} {}: is also the file of {}, and the results would be lost; choose another", flag,
          path.string(), output.flag);
  for (const auto& [descriptor, name] :
       {std::pair{STDOUT_FILENO, "standard output"}, {STDERR_FILENO, "standard error"}}) {
    struct stat status = {};
    const bool is_file = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    check(!is_file || !file.is_there || status.st_dev != file.device || status.st_ino != file.inode,
          Error::Kind::Usage,
          "{} {}: {} goes there, too; give -o - instead, or choose another file", flag,
          path.string(), name);
  }
  outputs_.push_back(file);
}

void check_place(const fs::path& path, const std::function<bool(const TensorFile&)>& is_ours) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (path.empty() || !fs::exists(status))
    return;
  check(fs::is_regular_file(status), Error::Kind::Output,
        "{}: is a folder, a device or a pipe; name a file", path.string());
  bool ours = fs::file_size(path, error) == 0;
  try {
    ours = ours || is_ours(TensorFile::open(path));
  } catch (const Error&) {  // not even safetensors
  }
  check(ours, Error::Kind::Input,
        "{}: exists and holds something else, which is left as it is; choose another file",
        path.string());
}

bool has_metadata(const fs::path& path, const std::string& key) {
  std::error_code error;
  if (!fs::is_regular_file(path, error))
    return false;
  try {
    return TensorFile::open(path).metadata().contains(key);
  } catch (const Error&) {
    return false;
  }
}

std::string output_name(const std::string& path) {
  const std::optional<int> descriptor = descriptor_of(path);
  check(descriptor != STDERR_FILENO, Error::Kind::Usage,
        "{}: is standard error, where messages go; name a file, or - for standard output", path);
  return descriptor == STDOUT_FILENO ? "-" : path;
}

}  // namespace stuffed::io
