// Stacks what a run asked for around the plain scan.
#include <array>

#include "arguments.h"
#include "stuffed/core/error.h"
#include "stuffed/recurrence/mitigations.h"
#include "stuffed/recurrence/window.h"
#include "wrappers.h"

namespace stuffed {

namespace recurrence {

#define MITIGATION(name, ...) \
  Inner make_##name(Arguments arguments, Inner inner, const Building& building);
#include "mitigations.inc"
#undef MITIGATION

namespace {

struct Mitigation {
  std::string_view name;
  Inner (*make)(Arguments, Inner, const Building&);
};

std::vector<Mitigation> mitigations() {
  return {
#define MITIGATION(name, ...) Mitigation{#name, make_##name},
#include "mitigations.inc"
#undef MITIGATION
  };
}

Inner wrap(const std::string& text, Inner inner, const Building& building) {
  Arguments arguments(text);
  std::vector<std::string_view> known;
  for (const Mitigation& mitigation : mitigations()) {
    if (mitigation.name == arguments.name())
      return mitigation.make(std::move(arguments), std::move(inner), building);
    known.push_back(mitigation.name);
  }
  fail(Error::Kind::Usage, "'{}' is not a mitigation; known are {}", arguments.name(),
       fmt::join(known, ", "));
}

/// sliding_window subtracts what the very decays it sees have left of old tokens, so nothing may
/// change the inputs or the state behind it.
void check_order(const std::vector<std::string>& mitigations) {
  const auto is = [](const std::string& text, std::string_view name) {
    return Arguments(text).name() == name;
  };
  for (size_t i = 0; i < mitigations.size(); ++i) {
    if (!is(mitigations[i], "sliding_window"))
      continue;
    check(i + 1 == mitigations.size(), Error::Kind::Usage,
          "--mitigation {}: must be the last one; {} after it would change the decays it is "
          "computed from",
          mitigations[i], mitigations.back());
    for (const std::string& other : mitigations)
      check(!is(other, "clamp_norm"), Error::Kind::Usage,
            "--mitigation {} and {} exclude one another: a clamped state is no sum over tokens, so "
            "no token can be subtracted from it",
            other, mitigations[i]);
  }
}

}  // namespace
}  // namespace recurrence

std::vector<MitigationHelp> mitigation_help() {
  return {
#define MITIGATION(name, ...) MitigationHelp{#name, __VA_ARGS__},
#include "mitigations.inc"
#undef MITIGATION
  };
}

std::shared_ptr<const Recurrence> build_recurrence(const RecurrenceOptions& options,
                                                   InnerObserver* inner_observer) {
  recurrence::check_order(options.mitigations);
  recurrence::Inner rule = recurrence::make_plain_scan(options.impl, options.state_dtype);
  // A window takes the stream in scans of its own, which are no updates to be seen: it is seen from
  // outside. As the last mitigation it changes no input that another one would.
  const bool has_window = window_tokens(options.mitigations) > 0;
  const auto observe = [&] {
    if (inner_observer != nullptr)
      rule = recurrence::make_observed(rule, inner_observer);
  };
  if (!has_window)
    observe();
  // The first mitigation named is the first to see the inputs, hence the outermost.
  for (auto text = options.mitigations.rbegin(); text != options.mitigations.rend(); ++text) {
    rule = recurrence::wrap(*text, rule, {options, inner_observer});
    if (has_window && text == options.mitigations.rbegin())
      observe();
  }
  return options.observer ? recurrence::make_observed(rule, options.observer) : rule;
}

std::shared_ptr<const Recurrence> build_recurrence(const RecurrenceOptions& options) {
  return build_recurrence(options, nullptr);
}

}  // namespace stuffed
