// Runs cells in worker processes: one at a time each, restarted if one dies.
#pragma once
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "stuffed/sweep/plan.h"

namespace stuffed::sweep {

/// A cell that is to be run.
struct Job {
  std::string name;
  std::vector<std::string> arguments;  // of its command line, without the program's name
  std::string model_key;               // a worker prefers cells whose model it holds
  std::filesystem::path log;           // gets what the cell prints
  std::filesystem::path results;       // grows while it gets on
};

struct Outcome {
  int exit_code = 0;
  std::string error;          // one line; empty if all is well
  bool is_elsewhere = false;  // another process runs it, and it was left to that
  double seconds = 0;         // all its attempts together
  bool is_whole = false;  // nothing of it was there before: `seconds` are those of the whole cell
};

/// How the pool's owner is told. Indices are those of the jobs.
struct PoolWatch {
  std::function<void(size_t job)> on_start;
  std::function<void(size_t job, int64_t tokens)> on_progress;
  std::function<void(size_t job, const Outcome& outcome)> on_end;
  std::function<void()> on_tick;  // several times a second
};

struct PoolOptions {
  size_t workers = 1;
  std::vector<std::string> program;  // a worker's command line; see serve_cells()
  std::vector<std::string> gpus;  // CUDA_VISIBLE_DEVICES of the workers, in turn; empty: as it is
};

/// Runs every job; a failing one does not stop the others. A worker that dies (a crash, a kill) is
/// restarted with its cell, which goes on where its journal ends; a cell that kills its worker again
/// and again without getting on fails with exit code 70. A cell that another process is running is
/// come back to at the end, and then left to it.
/// Errors  Interrupted once all workers have stopped, if a signal came; Output if none can be started
void run_jobs(const std::vector<Job>& jobs, const PoolOptions& options, const PoolWatch& watch);

/// CUDA_VISIBLE_DEVICES, part by part; all of `visible` if it is not set.
std::vector<std::string> visible_gpus(int64_t visible);

/// What a cell came to, as its worker says.
struct Served {
  int exit_code = 0;
  std::string error;
  bool in_use = false;      // another process is writing its results
  bool start_anew = false;  // the worker is not to be trusted with another cell
};

/// The worker's side: runs cells that come through standard input, tells of them through standard
/// output, and ends when its owner closes the one or is gone. `run` gets what follows the program's
/// name; tokens fed are told by tell_owner().
using RunCell = std::function<Served(const std::vector<std::string>& arguments)>;
void serve_cells(const RunCell& run);

}  // namespace stuffed::sweep
