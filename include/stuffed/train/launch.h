// Which of the processes of a distributed run this one is, as torchrun or Slurm tell it.
#pragma once
#include <functional>
#include <string>

namespace stuffed::train {

struct Launch {
  int rank = 0, size = 1;    // of this process, among how many
  int local_rank = 0;        // on its host: the index of its GPU
  std::string address = {};  // of the host of rank 0
  int port = 0;              // on it, where the ranks meet
  bool is_served = false;    // torchrun itself listens at that port
  std::string attempt = {};  // tells a restart by torchrun from the start before it
};

/// `variable` returns the value of an environment variable, or null: std::getenv, but in tests.
/// torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT) if RANK is set, else
/// Slurm's (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID); the first host of Slurm's node list and a port
/// made from its job's number unless MASTER_ADDR and MASTER_PORT say otherwise.
/// Errors  Usage naming the variable that is missing, no number or at odds with another
Launch read_launch(const std::function<const char*(const char* name)>& variable);

/// The first host of a list as Slurm writes it: "n01" of "n[01-03,7],m2".
std::string first_host(const std::string& list);

}  // namespace stuffed::train
