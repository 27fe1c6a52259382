// The recurrence alone.
#include <ATen/ATen.h>

#include "bench_gate.h"
#include "bench_record.h"
#include "kernels/decay_scan/decay_scan_cases.h"
#include "kernels/decay_scan/decay_scan_views.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/interrupt.h"
#include "stuffed/models/family.h"

namespace stuffed::eval {

namespace {

using scan_cases::Case;

/// One layer of the family's model of about 1.5B parameters, as far as nothing else was asked for.
Case case_of(const ScanCase& asked, const BenchOptions& options) {
  const Family& family = find_family(asked.family);
  const auto or_published = [](int64_t width, int64_t published) {
    return width > 0 ? width : published;
  };
  return {.variant = {.name = family.name, .terms = family.terms},
          .B = asked.batch,
          .T = asked.tokens,
          .H = or_published(asked.heads, family.widths.heads),
          .K = or_published(asked.key_width, family.widths.key_width),
          .V = or_published(asked.value_width, family.widths.value_width),
          .type = options.dtype,
          .seed = options.seed};
}

BenchRecord start_record(const Case& c, const BenchOptions& options, Impl impl) {
  const char* const family = scan_cases::name_of(c.variant);
  const std::string device = options.device.is_cuda() ? "cuda" : "cpu";
  return {.key = fmt::format("scan/{}/B{}_T{}_H{}_K{}_V{}/{}/{}/{}", family, c.B, c.T, c.H, c.K,
                             c.V, dtype_name(c.type), device, impl_name(impl)),
          .fields = {{"kind", "scan"},
                     {"family", family},
                     {"batch", c.B},
                     {"tokens", c.T},
                     {"heads", c.H},
                     {"key_width", c.K},
                     {"value_width", c.V},
                     {"dtype", dtype_name(c.type)},
                     {"device", device},
                     {"impl", impl_name(impl)}}};
}

void run(const Case& c,
         const BenchOptions& options,
         const std::optional<Ceilings>& ceilings,
         Impl impl,
         BenchRecord& record) {
  const scan_cases::Problem p = scan_cases::make_problem(c, options.device);
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
  const Work work =
      scan_work(c.variant.terms, {.heads = c.H, .key_width = c.K, .value_width = c.V}, c.type);
  record.fields.update(measured.fields);
  record.fields.update(timing_fields(measured.timing, tokens, 1));
  record.fields.update(work_fields(work.bytes * tokens, work.flops * tokens, tokens,
                                   measured.timing.median(), ceilings));
  record.fields["streamed_bytes_per_token"] =
      static_cast<double>(kernels::streamed_bytes(p.in)) / tokens;
}

}  // namespace

void bench_scan(const std::vector<ScanCase>& cases,
                const BenchOptions& options,
                const OnRecord& on_record) {
  const std::optional<Ceilings> ceilings = ceilings_if_wanted(options);
  for (const ScanCase& asked : cases) {
    stop_if_interrupted();
    const Case c = case_of(asked, options);
    Case small = c;
    small.B = small.T = 1;
    const scan_cases::Problem token = scan_cases::make_problem(small, options.device);
    const Impl impl =
        ops::choose(kernels::repeat_token(token.in, c.T), token.state, options.impl.scan);
    BenchRecord record = start_record(c, options, impl);
    record_or_no_memory(record, [&] { run(c, options, ceilings, impl, record); });
    on_record(record);
  }
}

}  // namespace stuffed::eval
