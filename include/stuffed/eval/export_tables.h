// Results in formats that spreadsheets and leaderboards read.
#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace stuffed::eval {

struct ExportOptions {
  bool partial = false;    // a journal that is not finished, as far as it is
  bool overwrite = false;  // into a folder that holds something
};

struct ExportedFiles {
  std::vector<std::filesystem::path> written;
  std::vector<std::string> warnings;  // what is missing from the files, a sentence each
};

/// Of any journal, in FOLDER: records.csv, a row per record with its single values (a field of a
/// field is OUTER.INNER); values.csv, a row per element of an array (key, field, index, value; of
/// arrays in arrays the index is 3.0); run.csv, the header's config and provenance (field, value).
/// Numbers are written as in the journal; null is empty.
/// Errors  Input if it is no journal, or is not finished and `partial` is not given; Usage if one of
///         the files is the journal; Output if a file cannot be written, or the folder holds
///         something and `overwrite` is not given
ExportedFiles export_csv(const std::filesystem::path& journal,
                         const std::filesystem::path& folder,
                         const ExportOptions& options = {});

/// Of a ppl-by-length or passkey journal, or a sweep's of such: FOLDER/results.json with the keys of
/// lm-evaluation-harness; of a sweep FOLDER/<cell>/results.json.
///
/// ppl-by-length is the group ppl_by_length of a task ppl_by_length_<tokens> per bucket, up to that
/// position: token_perplexity, and byte_perplexity and bits_per_byte if the run had a tokenizer.
/// passkey is the group passkey of a task passkey_<tokens> per length: acc (the key occurs) and
/// exact_match (the answer begins with it). What is not finite is null.
/// Errors  as export_csv(), and Input for other results
ExportedFiles export_lm_eval(const std::filesystem::path& journal,
                             const std::filesystem::path& folder,
                             const ExportOptions& options = {});

}  // namespace stuffed::eval
