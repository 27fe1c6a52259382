// The processes of a distributed run, as seen from one of them. Each of the collective functions is
// called by all ranks, in the same order.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include "stuffed/core/tensor.h"
#include "stuffed/train/launch.h"

namespace stuffed::train {

class Ranks {
 public:
  /// One process, alone: nothing is sent, nothing waited for.
  Ranks();
  /// Meets the others within `timeout` seconds. From then on a rank that dies ends all others, with one
  /// message and exit code 1, wherever they are; that ends this process, too (_exit).
  /// Errors  kRankLost if one does not come; Usage if ranks were started with other numbers or the port
  ///         is in use; Unsupported if tensors are to be summed on a GPU and the build lacks NCCL
  Ranks(const Launch& launch, at::Device device, double timeout);
  ~Ranks();
  Ranks(const Ranks&) = delete;
  Ranks& operator=(const Ranks&) = delete;

  int rank() const;
  int size() const;
  bool is_alone() const { return size() == 1; }
  bool is_first() const { return rank() == 0; }

  // ---- collective ----

  /// The flags of all ranks, joined by "or".
  uint32_t agree(uint32_t flags);
  /// Every tensor becomes its mean over the ranks; see AllReduce.
  void average(const std::vector<Tensor>& tensors);
  /// Those of rank 0.
  std::string broadcast(const std::string& text);
  void broadcast(const std::vector<Tensor>& tensors);
  /// On rank 0 the rows of all, in the order of ranks; elsewhere what was given.
  Tensor gather(const Tensor& rows);
  /// The others have come here too; from now on none watches the others. Once; then nothing.
  void end();

  /// What this rank came to grief of. Rank 0 tells the others to end with this code, in silence, and
  /// returns: its caller reports the message. Any other rank leaves the message to rank 0 and does not
  /// return, unless rank 0 is gone as well. Does nothing after end().
  void fail(int exit_code, const std::string& message);

 private:
  struct Members;
  std::unique_ptr<Members> members_;  // none: alone
};

}  // namespace stuffed::train
