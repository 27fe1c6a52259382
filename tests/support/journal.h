// A journal for tests of what lies beside one.
#pragma once
#include <filesystem>

#include "stuffed/io/journal.h"

namespace stuffed::testing {

/// FOLDER/a.jsonl with nothing recorded yet.
inline io::Journal begin_journal(const std::filesystem::path& folder) {
  return io::Journal::open(folder / "a.jsonl", {.schema = "stuffed.test",
                                                .version = 1,
                                                .config = io::json::object(),
                                                .provenance = io::json::object()});
}

}  // namespace stuffed::testing
