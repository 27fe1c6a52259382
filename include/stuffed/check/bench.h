// How fast, and how far from what the machine allows: the recurrence alone, and whole models.
// Nothing is timed that is not first found right at its shape.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "stuffed/models/recurrent_lm.h"
#include "stuffed/ops/op.h"

namespace stuffed::eval {

inline constexpr const char* kBenchSchema = "stuffed.bench";
inline constexpr int kBenchVersion = 1;

/// What every measurement shares.
struct BenchOptions {
  at::Device device = at::kCPU;
  at::ScalarType dtype = at::kFloat;  // of streams, weights and activations
  ops::Impls impl = {};
  int64_t warmup = 3, repeats = 20;
  bool ceilings = true;  // measure copy and matrix product first; without them there are no floors
  uint64_t seed = 0;
  bool broken = false;  // for tests: what is timed is made 1 % wrong, and must be refused
};

/// One measurement: its key, and the fields of its record. "verdict" is "timed", "REFUSED" (it is
/// wrong at this shape), or "out of memory".
struct BenchRecord {
  std::string key;
  io::json fields;
};
using OnRecord = std::function<void(const BenchRecord&)>;

struct ScanCase {
  std::string family;  // one of family_names()
  int64_t batch = 1, tokens = 8192;
  int64_t heads = 0, key_width = 0, value_width = 0;  // 0: as published
};

/// One call of the recurrence on random inputs, the caches flushed before each repeat.
void bench_scan(const std::vector<ScanCase>& cases,
                const BenchOptions& options,
                const OnRecord& on_record);

enum class Phase { Prefill, Evaluate, Decode };
Phase parse_phase(const std::string& name);  // "prefill", "evaluate", "decode"; throws Usage

struct ModelCase {
  Phase phase = Phase::Prefill;
  int64_t batch = 1, tokens = 8192;  // of a decode step: tokens fed before it, at most 512
};

/// Prefill: hidden rows of a segment. Evaluate: prefill, logits and cross entropy. Decode: one
/// token a step, the likeliest fed back; measured twice, by plain forward calls and by a
/// DecodeSession, which on a GPU replays a CUDA graph ("decode-session"). `name` says which model
/// in keys. Before a phase is timed, the calls of the recurrence that it makes in the first, middle
/// and last layer are compared with f64; before evaluation some losses with f64 ones; before
/// decoding some tokens one by one with the same in one go.
void bench_model(RecurrentLM& model,
                 const std::string& name,
                 const std::vector<ModelCase>& cases,
                 int64_t decode_steps,
                 const BenchOptions& options,
                 const OnRecord& on_record);

}  // namespace stuffed::eval
