// Parts of one run become one result; the cells of a sweep become one file.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "stuffed/io/json.h"

namespace stuffed::eval {

inline constexpr const char* kSweepSchema = "stuffed.sweep";
inline constexpr int kSweepVersion = 1;

struct MergeOptions {
  bool overwrite = false;
  io::json provenance = {};  // of the merged header
};

struct Merged {
  int64_t parts = 0, records = 0;
  std::filesystem::path sidecar;  // empty: there is none
};

/// Joins finished journals of one run that hold different documents or trials: `output` is what one
/// run over all of them would have written, summary and sidecar included. Headers must agree but for
/// provenance, paths, device and part.
/// Errors  Input, naming journals and what is wrong, if one is unfinished, if configs differ, if a
///         document or trial is missing, or is in two of them; Output
Merged merge_parts(const std::vector<std::filesystem::path>& parts,
                   const std::filesystem::path& output,
                   const MergeOptions& options);

/// Joins the cells of sweeps that have the same plan: schema stuffed.sweep, a record
/// NAME/KEY for each record KEY of cell NAME, in the order of the plan.
/// Errors  Input, naming cells, if plans differ, a cell is not finished, or is in two folders; Output
Merged merge_sweeps(const std::vector<std::filesystem::path>& folders,
                    const std::filesystem::path& output,
                    const MergeOptions& options);

}  // namespace stuffed::eval
