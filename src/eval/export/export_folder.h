// What exports of every format ask before they write.
#pragma once
#include <filesystem>

namespace stuffed::eval {

/// Errors  Input if a journal that is not finished is exported without `partial`
void check_finished(const std::filesystem::path& journal, bool finished, bool partial);

/// Errors  Output if `folder` is there and is no folder, or holds something and `overwrite` is not given
void check_folder(const std::filesystem::path& folder, bool overwrite);

/// Makes it, with those above it.
/// Errors  Output
void make_folder(const std::filesystem::path& folder);

}  // namespace stuffed::eval
