// One process at a time writes into a folder.
#pragma once
#include <filesystem>

#include "stuffed/io/in_use.h"

namespace stuffed::io {

/// Held by the one process that writes into a folder; gone with the process, and leaves no file.
class WriterLock {
 public:
  /// Errors  InUse if another process holds it. Some network file systems know no locks; there two
  ///         processes in one folder remain the user's care
  explicit WriterLock(const std::filesystem::path& folder);
  ~WriterLock();
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;

 private:
  int descriptor_ = -1;
};

}  // namespace stuffed::io
