// A file that appears whole or not at all: written beside its place, synced, then renamed.
#pragma once
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace stuffed::io {

/// Every failure (full disk, read-only folder, a device or a pipe in its place) is an Output error
/// that names the file and what the system said; what was there before stays as it was. A link is
/// followed, and stays.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();  // without commit(): nothing is left
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Writes over the first bytes, such as a header that holds sizes.
  void rewrite_beginning(std::string_view text);
  /// Syncs to the disk and gives the file its name. Call once, last.
  void commit();

 private:
  std::string name_beside(int i) const;
  void name();

  std::string path_, temporary_;
  int file_ = -1;
};

/// Makes the folder that the file is to lie in. That it could not be made, writing the file says.
void make_folder_of(const std::filesystem::path& file);

/// May this text be written there? Only where there is nothing or the same, unless `overwrite`.
/// Errors  Output if something else is there
void check_text_place(const std::filesystem::path& path, std::string_view text, bool overwrite);

/// The whole of a small file at once.
void write_text(const std::filesystem::path& path, std::string_view text);

}  // namespace stuffed::io
