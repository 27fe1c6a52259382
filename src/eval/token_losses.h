// The per-token sidecar: nll [documents,N] f32, written so that a killed run goes on where its
// journal does.
#pragma once
#include <filesystem>
#include <span>
#include <vector>

namespace stuffed::eval {

/// Rows gather in PATH.partial, raw; finish() turns them into PATH. Without a path it does nothing.
class TokenLosses {
 public:
  explicit TokenLosses(std::filesystem::path path) : path_(std::move(path)) {}

  /// Keeps the first `floats` values, those of the documents the journal holds, and what lies
  /// behind them if the run stopped `in_the_middle` of one more. Errors  Input if fewer are there
  void keep(int64_t floats, bool in_the_middle = false) const;
  /// Errors  Input if fewer than `floats` are there
  void check_holds(int64_t floats) const;
  /// Puts values at `place`, counted in floats from the first document's first.
  void write(std::span<const float> nll, int64_t place) const;
  /// Writes nll [documents,N]; a document shorter than the longest is padded with NaN.
  void finish(const std::vector<int64_t>& targets) const;
  void remove_partial() const;

 private:
  std::filesystem::path partial() const;
  std::filesystem::path path_;
};

}  // namespace stuffed::eval
