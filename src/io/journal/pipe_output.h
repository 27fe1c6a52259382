// Results that go to a pipe or a device: its reader is waited for, and a signal ends the waiting.
#pragma once
#include <filesystem>
#include <string_view>

namespace stuffed::io {

/// Opens a named pipe once someone reads it.
/// Errors  Output if no one does within ten seconds; Interrupted
int open_fifo(const std::filesystem::path& path);

/// Returns 0, or the errno that stopped it.
/// Errors  Interrupted while the reader takes nothing
int write_pipe(int fd, std::string_view bytes);

}  // namespace stuffed::io
