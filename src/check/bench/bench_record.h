// The fields that all measurements have in common.
#pragma once
#include "stuffed/check/bench.h"
#include "work_model.h"

namespace stuffed::eval {

/// Seconds a repeat as median, p10 and p90, and what follows from them for `tokens` tokens (of all
/// sequences together) through `layers` layers.
io::json timing_fields(const Timing& timing, double tokens, double layers);

/// "bytes_...", "flops_...", floor and its share, of one repeat that at least moves `bytes` and
/// does `flops`. Floors are null without ceilings.
io::json work_fields(double bytes,
                     double flops,
                     double tokens,
                     double seconds,
                     const std::optional<Ceilings>& ceilings);

/// Times `body`: peak memory and clocks before and after are recorded with it.
struct Measured {
  Timing timing;
  io::json fields;
};
Measured measure(const BenchOptions& options,
                 bool flush,
                 const std::function<void()>& body,
                 const std::function<void()>& prepare = {});

std::optional<Ceilings> ceilings_if_wanted(const BenchOptions& options);

/// Runs `body`, which fills the record; memory that does not suffice becomes its verdict.
void record_or_no_memory(BenchRecord& record, const std::function<void()>& body);

}  // namespace stuffed::eval
