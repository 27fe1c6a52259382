// Stacks what a run asked for around the plain scan.
#include <array>

#include "arguments.h"
#include "stuffed/core/error.h"
#include "wrappers.h"

namespace stuffed {

namespace recurrence {

#define MITIGATION(name) Inner make_##name(Arguments arguments, Inner inner);
#include "mitigations.inc"
#undef MITIGATION

namespace {

struct Mitigation {
  std::string_view name;
  Inner (*make)(Arguments, Inner);
};

std::vector<Mitigation> mitigations() {
  return {
#define MITIGATION(name) Mitigation{#name, make_##name},
#include "mitigations.inc"
#undef MITIGATION
  };
}

Inner wrap(const std::string& text, Inner inner) {
  Arguments arguments(text);
  std::vector<std::string_view> known;
  for (const Mitigation& mitigation : mitigations()) {
    if (mitigation.name == arguments.name())
      return mitigation.make(std::move(arguments), std::move(inner));
    known.push_back(mitigation.name);
  }
  fail(Error::Kind::Usage, "'{}' is not a mitigation; known are {}", arguments.name(),
       fmt::join(known, ", "));
}

}  // namespace
}  // namespace recurrence

std::shared_ptr<const Recurrence> build_recurrence(const RecurrenceOptions& options) {
  recurrence::Inner rule = recurrence::make_plain_scan(options.impl, options.state_dtype);
  // The first mitigation named is the first to see the inputs, hence the outermost.
  for (auto text = options.mitigations.rbegin(); text != options.mitigations.rend(); ++text)
    rule = recurrence::wrap(*text, rule);
  return options.observer ? recurrence::make_observed(rule, options.observer) : rule;
}

}  // namespace stuffed
