#include <algorithm>

#include "checkpoint.h"
#include "stuffed/core/error.h"
#include "stuffed/models/family.h"

namespace stuffed {

const std::vector<const Family*>& families() {
#define FAMILY(name) &name##_family,
  static const std::vector<const Family*> all = {
#include "families.inc"
  };
#undef FAMILY
  return all;
}

std::vector<std::string> family_names(bool new_only) {
  std::vector<std::string> names;
  for (const Family* family : families())
    if (!new_only || family->make_new)
      names.emplace_back(family->name);
  std::ranges::sort(names);
  return names;
}

const Family& find_family(std::string_view name) {
  const auto found =
      std::ranges::find_if(families(), [&](const Family* family) { return family->name == name; });
  check(found != families().end(), Error::Kind::Usage, "'{}' is not a family; known are {}", name,
        fmt::join(family_names(), ", "));
  return **found;
}

}  // namespace stuffed
