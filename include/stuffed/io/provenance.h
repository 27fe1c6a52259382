// Where a result came from: what is recorded beside the numbers and decides none of them.
#pragma once
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include "stuffed/io/json.h"

namespace stuffed::io {

/// Commit, version, command line, LibTorch, CUDA, device and its name, threads, UTC start, and a
/// random id that ties the files of one run together. Names no host and no user.
json provenance(const std::vector<std::string>& command_line, at::Device device);

/// Now, as "2026-11-24T00:31:07Z".
std::string utc_now();

}  // namespace stuffed::io
