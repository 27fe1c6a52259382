// Runs with mitigations beside the run of the same model and task without.
#pragma once
#include <functional>
#include <vector>

#include "run.h"

namespace stuffed::report {

struct Group {
  const Run* plain;
  Runs mitigated = {};
};

/// Of runs whose configs agree in what `identity` takes from them; groups without a mitigated run
/// are left out.
std::vector<Group> groups_of(const Runs& runs, const std::function<io::json(const Run&)>& identity);

}  // namespace stuffed::report
