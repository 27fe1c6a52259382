// The first and the last line of a journal, whatever lies between.
#pragma once
#include "stuffed/io/journal.h"

namespace stuffed::io {

/// Of JournalEnd: header, commit, header_hash and finished.
/// Errors  Input, naming file and line, if it is unreadable or not a journal
JournalEnd look_into_journal(const std::filesystem::path& path);

}  // namespace stuffed::io
