// How an operation's form is chosen: its programs in one table, the first that takes the inputs, or
// the one that is forced.
#pragma once
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include "stuffed/ops/op.h"

namespace stuffed::ops {

template <class In, class Out>
struct Program {
  Impl form;
  bool (*takes)(const In&);
  Out (*run)(const In&);
};

/// In the order in which Auto asks them, which never takes Reference.
template <class In, class Out, size_t N>
using Programs = std::array<Program<In, Out>, N>;

template <class In, class Out, size_t N>
std::vector<Impl> forms_of(const Programs<In, Out, N>& programs) {
  std::vector<Impl> forms;
  for (const auto& program : programs)
    forms.push_back(program.form);
  return forms;
}

/// Errors  Unsupported: the form forced does not take `first` and its kin; `takers` do
[[noreturn]] void refuse(const Op& op, const Tensor& first, const std::vector<Impl>& takers);

/// The program that runs these inputs.
/// Errors  Unsupported if one is forced that does not take them: it never falls back to another
template <class In, class Out, size_t N>
const Program<In, Out>& choose(const Op& op, const Programs<In, Out, N>& programs, const In& in) {
  const Impl forced = op.forced.load(std::memory_order_relaxed);
  for (const auto& program : programs)
    if ((forced == Impl::Auto ? program.form != Impl::Reference : program.form == forced) &&
        program.takes(in))
      return program;
  std::vector<Impl> takers;
  for (const auto& program : programs)
    if (program.takes(in))
      takers.push_back(program.form);
  std::optional<Tensor> first;
  In::visit(in, [&](const char*, const Tensor& x) {
    if (!first)
      first = x;
  });
  refuse(op, *first, takers);
}

template <class In, class Out, size_t N>
Out dispatch(const Op& op, const Programs<In, Out, N>& programs, const In& in) {
  return choose(op, programs, in).run(in);
}

/// The same inputs elsewhere or, if `type` is given, with every number of that type.
template <class In>
In converted(In in, at::Device device, std::optional<at::ScalarType> type = {}) {
  In::visit(in, [&](const char*, Tensor& x) {
    if (x.defined())
      x = type && x.is_floating_point() ? x.to(device, *type) : x.to(device);
  });
  if constexpr (requires { in.out; })
    in.out = type ? type : in.out;
  return in;
}

inline std::vector<Tensor> results_of(const Tensor& out) {
  return {out};
}
inline std::vector<Tensor> results_of(const std::vector<Tensor>& out) {
  return out;
}
template <class Out>
requires requires(const Out& out) {
  out.tensors();
}
std::vector<Tensor> results_of(const Out& out) {
  return out.tensors();
}

/// The case that runs `in` by the programs of a table that outlives it.
template <class In, class Out, size_t N>
OpCase case_of(const Programs<In, Out, N>& programs, const std::string& name, const In& in) {
  const auto program = [&programs](Impl form) -> const Program<In, Out>* {
    for (const auto& candidate : programs)
      if (candidate.form == form)
        return &candidate;
    return nullptr;
  };
  at::ScalarType type = at::kFloat;
  bool is_first = true;
  In::visit(in, [&](const char*, const Tensor& x) {
    if (std::exchange(is_first, false))
      type = x.scalar_type();
  });
  return {
      .name = name,
      .type = type,
      .takes =
          [program, in](Impl form, at::Device device) {
            return program(form) && program(form)->takes(converted(in, device));
          },
      .run =
          [program, in](Impl form, at::Device device) {
            return results_of(program(form)->run(converted(in, device)));
          },
      .exact =
          [program, in] {
            return results_of(program(Impl::Reference)->run(converted(in, at::kCPU, at::kDouble)));
          }};
}

/// A table's cases: named inputs.
template <class In, class Out, size_t N>
void add_cases(const Programs<In, Out, N>& programs,
               const std::vector<std::pair<std::string, In>>& inputs,
               std::vector<OpCase>& cases) {
  for (const auto& [name, in] : inputs)
    cases.push_back(case_of(programs, name, in));
}

}  // namespace stuffed::ops
