// Passkey results in the files of the code published with arXiv:2410.07145, for its plot script.
#pragma once
#include <filesystem>

namespace stuffed::eval {

/// Writes FOLDER/args.json and FOLDER/passkey/preds_<length>.jsonl, one line per trial in the order
/// of depths, with that code's fields (`idx` a string, `relative_postion` spelt so).
/// Errors  Input if `journal` is no passkey result; Usage if it would be overwritten; Output if a
///         file cannot be written, or is there with other contents and `overwrite` is not given
void export_paper(const std::filesystem::path& journal,
                  const std::filesystem::path& folder,
                  bool overwrite = false);

}  // namespace stuffed::eval
