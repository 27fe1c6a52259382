// What there is to know of each mitigation, for those who choose one.
#pragma once
#include <string_view>
#include <vector>

namespace stuffed {

struct MitigationHelp {
  std::string_view name;
  std::string_view keys;  // with their defaults, "decay=1,insert=1"; capitals: must be given
  std::string_view effect;
  std::string_view cost;
  std::string_view rules;  // order, and what refuses it
};

std::vector<MitigationHelp> mitigation_help();

}  // namespace stuffed
