// The arrays beside a journal: which file they are in, and whose.
#pragma once
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "stuffed/core/tensor.h"
#include "stuffed/io/journal.h"

namespace stuffed::io {

/// war.jsonl -> war.safetensors; whatever does not end in .jsonl gets .safetensors behind it.
std::filesystem::path sidecar_beside(const std::filesystem::path& journal);

/// One safetensors file PATH. While its run goes on, parts gather in the folder PATH.partial, which
/// names the run and is locked; then PATH appears whole, and its metadata holds the run's signature
/// (run_sha256). Only the run it belongs to can go on with it, replace it or remove it. With an
/// empty path there is none, and nothing below does anything.
class Sidecar {
 public:
  using Tensors = std::vector<std::pair<std::string, Tensor>>;

  /// Takes PATH for the run of `results`: what this journal held before is thrown away if it was
  /// begun anew.
  ///
  /// Errors  Usage if PATH or its parts are another run's; Input if PATH is a foreign file, or if
  ///         the journal is finished and its file is gone; Output if another process is writing it
  ///         or the place is not writable
  Sidecar(std::filesystem::path path, const Journal& journal);
  ~Sidecar();  // a folder without parts is removed
  Sidecar(Sidecar&&) noexcept;
  Sidecar& operator=(Sidecar&&) noexcept;

  bool exists() const { return !path_.empty(); }
  const std::filesystem::path& path() const { return path_; }
  /// Where a part of that name gathers.
  std::filesystem::path part(std::string_view name) const;
  /// Takes over what an older stuffed left at `from`, unless the part is there.
  void adopt(const std::filesystem::path& from, std::string_view name) const;
  /// The whole file.
  /// Errors  Output
  void write(const Tensors& tensors, std::map<std::string, std::string> metadata) const;
  /// Call once PATH is written and the journal is finished.
  void remove_partial() const;

 private:
  struct Claim;
  std::filesystem::path path_;
  std::string signature_;
  std::unique_ptr<Claim> claim_;  // of PATH.partial; null if the run is finished and left none
};

/// What the constructor will refuse as another run's or as foreign, before `journal` is touched.
void check_sidecar(const std::filesystem::path& path, const std::filesystem::path& journal);

}  // namespace stuffed::io
