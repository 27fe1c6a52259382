#include "export_folder.h"

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace fs = std::filesystem;

void check_finished(const fs::path& journal, bool finished, bool partial) {
  check(finished || partial, Error::Kind::Input,
        "{}: is not finished; run its command again to resume it, or give --partial to export what "
        "is there",
        journal.string());
}

void check_folder(const fs::path& folder, bool overwrite) {
  std::error_code error;
  if (!fs::exists(folder, error))
    return;
  check(fs::is_directory(folder, error), Error::Kind::Output,
        "{}: exists and is not a folder; choose another", folder.string());
  check(overwrite || fs::is_empty(folder, error), Error::Kind::Output,
        "{}: exists and is not empty; choose another folder, or give --overwrite to replace what "
        "an export writes",
        folder.string());
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  check(!error, Error::Kind::Output, "{}: cannot be created: {}", folder.string(), error.message());
}

}  // namespace stuffed::eval
