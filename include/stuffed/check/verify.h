// Do all ways of computing the same numbers agree? For a model: one stream whole, in segments, one
// token at a time, by each implementation, on the CPU and on a GPU. For operations alone: every form
// against f64, the recurrence at every family's shapes under adversarial decays and lengths.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "stuffed/models/recurrent_lm.h"

namespace stuffed::eval {

inline constexpr const char* kVerifySchema = "stuffed.verify";
inline constexpr int kVerifyVersion = 1;

/// One comparison. Errors are relative RMS: of the losses (models) or of y per head (kernels), and of
/// the final state, the worst layer's or head's.
struct Verdict {
  std::string subject;  // "model", family and cases: "rwkv6 decays", or operation: "norm"
  std::string device, dtype, impl;  // "cpu", "cuda"; "f32", "bf16"; "tiled", ...
  std::string path;                 // "whole", "segments of 37", "one by one"
  std::string against;              // what it is compared with
  int64_t tokens = 0;               // the longest stream compared
  int64_t cases = 1;                // comparisons in this verdict; the errors are the worst of them
  double output_error = 0, state_error = 0;
  double output_bound = 0, state_bound = 0;
  std::string worst;    // the case that came closest to a bound, if there are several
  std::string not_run;  // why there is no comparison; empty if there is one

  bool ran() const { return not_run.empty(); }
  bool agrees() const { return output_error <= output_bound && state_error <= state_bound; }
  std::string key() const;
  std::string outcome() const;  // "agrees", "DISAGREES", "not run"
  io::json record() const;      // everything above
};

/// Told once before a comparison starts (`done` false: errors unset) and once after it.
using OnVerdict = std::function<void(const Verdict&, bool done)>;

struct VerifyModelOptions {
  std::vector<at::Device> devices = {at::kCPU};  // the CPU first, if it takes part
  std::vector<at::ScalarType> dtypes = {at::kFloat, at::kBFloat16};
  std::vector<int64_t> segments = {1, 37, 512};  // those shorter than the stream are used
  std::vector<int64_t> long_lengths =
      {};               // streams of these lengths, whole against pieces of `piece`
  bool past_2g = true;  // and on a GPU one of length_past_2g()
  int64_t piece = 8192;
  uint64_t seed = 0;        // of the random tokens of long streams
  std::string broken = {};  // for tests: this implementation inserts 1 % too much; "none"
};

/// Whether `name` means this program: by its own name, or as one of "chunked".
bool is_named(const std::string& name, Impl program);

/// Loads the model; called once for each device and dtype, one after the other.
using OpenModel =
    std::function<std::unique_ptr<RecurrentLM>(at::Device device, at::ScalarType dtype)>;

/// Compares over `tokens` [1,N+1] int64: on the CPU every path with the reference implementation
/// fed whole in the same dtype, which itself is compared with f32; on a GPU f32 with the CPU's
/// reference (or, without the CPU, with ATen's form), bf16 with its own ATen form fed whole. A comparison that does not fit the memory is a verdict "not run".
std::vector<Verdict> verify_model(const OpenModel& open,
                                  const Tensor& tokens,
                                  const VerifyModelOptions& options,
                                  const OnVerdict& on_verdict);

/// The first stream length at which one segment's widest activation [T, width] has more than 2^31
/// elements.
int64_t length_past_2g(RecurrentLM& model);

struct VerifyKernelsOptions {
  std::vector<at::Device> devices = {at::kCPU};
  std::string op = "all";      // or one operation's name, as its row has it (ops/op.h)
  std::string family = "all";  // or one of family_names(), of the recurrence
  bool huge = true;  // on a GPU: a million tokens, and views that span more than 2^31 and 2^32
  std::string broken = {};  // for tests, as above
};

/// Every form of the operations against their references in f64: the recurrence at every family's
/// shapes, the others on the cases of their rows.
/// Errors  Usage for an unknown family or operation
std::vector<Verdict> verify_kernels(const VerifyKernelsOptions& options,
                                    const OnVerdict& on_verdict);

}  // namespace stuffed::eval
