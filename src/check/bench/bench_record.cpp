#include "bench_record.h"

#include "stuffed/core/memory.h"

namespace stuffed::eval {

namespace {
constexpr double kMostOfFloor = 1.05;  // what timings of the same work differ by
}  // namespace

io::json timing_fields(const Timing& timing, double tokens, double layers) {
  const double seconds = timing.median(), low = timing.quantile(0.1), high = timing.quantile(0.9);
  return {{"repeats", timing.seconds.size()},
          {"seconds_median", seconds},
          {"seconds_p10", low},
          {"seconds_p90", high},
          {"spread", (high - low) / seconds},
          {"ns_per_token_per_layer", seconds * 1e9 / (tokens * layers)},
          {"tokens_per_s", tokens / seconds}};
}

io::json work_fields(double bytes,
                     double flops,
                     double tokens,
                     double seconds,
                     const std::optional<Ceilings>& ceilings) {
  io::json fields = {{"least_bytes_per_token", bytes / tokens},
                     {"flops_per_token", flops / tokens},
                     {"least_bytes_per_s", bytes / seconds},
                     {"flops_per_s", flops / seconds},
                     {"floor_seconds", nullptr},
                     {"floor_fraction", nullptr},
                     {"ceilings", nullptr}};
  if (!ceilings)
    return fields;
  const double floor = floor_seconds(bytes, flops, *ceilings);
  fields["floor_seconds"] = floor;
  fields["floor_fraction"] = floor / seconds;
  // Nothing is faster than the machine: the copy or the product was held up when it was measured.
  fields["ceilings_mismeasured"] = floor / seconds > kMostOfFloor;
  fields["ceilings"] = {{"copy_bytes_per_s", ceilings->copy_bytes_per_s},
                        {"matmul_flops_per_s", ceilings->matmul_flops_per_s}};
  return fields;
}

Measured measure(const BenchOptions& options,
                 bool flush,
                 const std::function<void()>& body,
                 const std::function<void()>& prepare) {
  const io::json before = read_clocks(options.device);
  reset_peak_memory(options.device);
  Measured measured;
  const TimingOptions how{
      .warmup = options.warmup, .repeats = options.repeats, .flush = flush, .prepare = prepare};
  measured.timing = time_runs(options.device, how, body);
  measured.fields = {
      {"verdict", "timed"},      {"warmup", options.warmup},
      {"caches_flushed", flush}, {"peak_memory_bytes", peak_memory_bytes(options.device)},
      {"clocks_before", before}, {"clocks_after", read_clocks(options.device)}};
  return measured;
}

std::optional<Ceilings> ceilings_if_wanted(const BenchOptions& options) {
  if (!options.ceilings)
    return std::nullopt;
  return measure_ceilings(options.device, options.dtype);
}

void record_or_no_memory(BenchRecord& record, const std::function<void()>& body) {
  try {
    body();
    return;
  } catch (const std::exception& error) {
    if (!is_out_of_memory(error))
      throw;
  }
  record.fields["verdict"] = "out of memory";
}

}  // namespace stuffed::eval
