// The recurrence alone.
#include <ATen/ATen.h>

#include "bench_gate.h"
#include "bench_record.h"
#include "kernels/decay_scan/decay_scan_cases.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"

namespace stuffed::eval {

namespace {

using testing::Case;
using testing::Variant;

/// One layer of the family's model of about 1.5B parameters.
Case published(Variant variant) {
  switch (variant) {
    case Variant::Mamba2:
      return {.variant = variant, .H = 64, .K = 128, .V = 64};
    case Variant::Hgrn2:
      return {.variant = variant, .H = 16, .K = 128, .V = 128};
    case Variant::Mamba1:
      return {.variant = variant, .H = 4096, .K = 16, .V = 1};
    default:
      return {.variant = variant, .H = 32, .K = 64, .V = 64};
  }
}

Case case_of(const ScanCase& asked, const BenchOptions& options) {
  for (const Variant variant : testing::kVariants) {
    if (asked.family != testing::name_of(variant))
      continue;
    Case c = published(variant);
    c.B = asked.batch;
    c.T = asked.tokens;
    c.H = asked.heads > 0 ? asked.heads : c.H;
    c.K = asked.key_width > 0 ? asked.key_width : c.K;
    c.V = asked.value_width > 0 ? asked.value_width : c.V;
    c.type = options.dtype;
    c.seed = options.seed;
    return c;
  }
  fail(Error::Kind::Usage, "'{}' is not a family; known are {}", asked.family,
       fmt::join(scan_families(), ", "));
}

BenchRecord start_record(const Case& c, const BenchOptions& options, Impl impl) {
  const char* const family = testing::name_of(c.variant);
  const std::string device = options.device.is_cuda() ? "cuda" : "cpu";
  return {.key = fmt::format("scan/{}/B{}_T{}_H{}_K{}_V{}/{}/{}/{}", family, c.B, c.T, c.H, c.K,
                             c.V, dtype_label(c.type), device, impl_name(impl)),
          .fields = {{"kind", "scan"},
                     {"family", family},
                     {"batch", c.B},
                     {"tokens", c.T},
                     {"heads", c.H},
                     {"key_width", c.K},
                     {"value_width", c.V},
                     {"dtype", dtype_label(c.type)},
                     {"device", device},
                     {"impl", impl_name(impl)}}};
}

void run(const Case& c,
         const BenchOptions& options,
         const std::optional<Ceilings>& ceilings,
         Impl impl,
         BenchRecord& record) {
  const testing::Problem p = testing::make_problem(c, options.device);
  const auto scan = [&] {
    ScanResult out = ops::decay_scan(p.in, p.state, impl);
    if (options.broken)
      out = {out.y * 1.01, out.state * 1.01};
    return out;
  };
  ScanGate gate;
  gate.look_at(p.in, p.state, scan());
  record.fields["check"] = gate.record();
  if (!gate.is_right()) {
    record.fields["verdict"] = "REFUSED";
    return;
  }
  const Measured measured = measure(options, /*flush=*/true, [&] { scan(); });
  const auto tokens = static_cast<double>(c.B * c.T);
  const Work work = scan_work(
      {.family = testing::name_of(c.variant), .heads = c.H, .key_width = c.K, .value_width = c.V},
      c.type);
  record.fields.update(measured.fields);
  record.fields.update(timing_fields(measured.timing, tokens, 1));
  record.fields.update(work_fields(work.bytes * tokens, work.flops * tokens, tokens,
                                   measured.timing.median(), ceilings));
  record.fields["streamed_bytes_per_token"] =
      static_cast<double>(kernels::streamed_bytes(p.in)) / tokens;
}

}  // namespace

std::vector<std::string> scan_families() {
  std::vector<std::string> names;
  for (const Variant variant : testing::kVariants)
    names.emplace_back(testing::name_of(variant));
  return names;
}

void bench_scan(const std::vector<ScanCase>& cases,
                const BenchOptions& options,
                const OnRecord& on_record) {
  const std::optional<Ceilings> ceilings = ceilings_if_wanted(options);
  for (const ScanCase& asked : cases) {
    stop_if_interrupted();
    const Case c = case_of(asked, options);
    Case small = c;
    small.B = small.T = 1;
    const testing::Problem token = testing::make_problem(small, options.device);
    const Impl impl = ops::choose(kernels::repeat_token(token.in, c.T), token.state, options.impl);
    BenchRecord record = start_record(c, options, impl);
    record_or_no_memory(record, [&] { run(c, options, ceilings, impl, record); });
    on_record(record);
  }
}

}  // namespace stuffed::eval
