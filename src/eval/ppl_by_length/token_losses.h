// The per-token sidecar: nll [documents,N] f32, written so that a killed run goes on where its
// journal does.
#pragma once
#include <span>
#include <vector>

#include "stuffed/io/sidecar.h"

namespace stuffed::eval {

/// Rows gather in a part of the sidecar, raw; finish() turns them into its file. Without a path it
/// does nothing.
class TokenLosses {
 public:
  /// Errors  as Sidecar's
  TokenLosses(std::filesystem::path path, const io::Journal& journal)
      : sidecar_(std::move(path), journal) {}
  ~TokenLosses();
  TokenLosses(const TokenLosses&) = delete;
  TokenLosses& operator=(const TokenLosses&) = delete;

  /// Keeps the first `floats` values, those of the documents the journal holds, and what lies
  /// behind them if the run stopped `in_the_middle` of one more.
  /// Errors  Input if fewer are there
  void keep(int64_t floats, bool in_the_middle = false);
  /// Errors  Input if fewer than `floats` are there
  void check_holds(int64_t floats) const;
  /// Puts values at `place`, counted in floats from the first document's first. Call keep() before.
  void write(std::span<const float> nll, int64_t place) const;
  /// All that was written is on the disk when this returns: call it before a record says so.
  void sync() const;
  /// Writes nll [documents,N]; a document shorter than the longest is padded with NaN.
  void finish(const std::vector<int64_t>& targets) const;
  void remove_partial() const { sidecar_.remove_partial(); }

 private:
  std::filesystem::path part() const { return sidecar_.part("nll"); }
  io::Sidecar sidecar_;
  int file_ = -1;  // of the part
};

}  // namespace stuffed::eval
