// A verdict as text and as a record.
#include <cmath>

#include "stuffed/check/verify.h"

namespace stuffed::eval {

bool is_named(const std::string& name, Impl program) {
  const bool is_chunked = program == Impl::Step || program == Impl::Tiled || program == Impl::Aten;
  return name == impl_name(program) || (name == impl_name(Impl::Chunked) && is_chunked);
}

std::string Verdict::key() const {
  return fmt::format("{}/{}/{}/{}/{}/T={}", subject, device, dtype, impl, path, tokens);
}

std::string Verdict::outcome() const {
  return !ran() ? "not run" : agrees() ? "agrees" : "DISAGREES";
}

io::json Verdict::record() const {
  io::json out = {{"subject", subject}, {"device", device}, {"dtype", dtype},
                  {"impl", impl},       {"path", path},     {"against", against},
                  {"tokens", tokens},   {"cases", cases},   {"verdict", outcome()},
                  {"finite", true}};
  if (!ran()) {
    out["reason"] = not_run;
    return out;
  }
  out["finite"] = std::isfinite(output_error) && std::isfinite(state_error);
  out["output_relative_rms"] = io::number_or_null(output_error);
  out["output_bound"] = output_bound;
  out["state_relative_rms"] = io::number_or_null(state_error);
  out["state_bound"] = state_bound;
  if (!worst.empty())
    out["worst_case"] = worst;
  return out;
}

}  // namespace stuffed::eval
