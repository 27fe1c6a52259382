#include "groups.h"

namespace stuffed::report {

std::vector<Group> groups_of(const Runs& runs,
                             const std::function<io::json(const Run&)>& identity) {
  std::vector<Group> groups;
  for (const Run* run : runs)
    explained(*run, [&] {
      if (run->mitigations() == "none")
        groups.push_back({.plain = run});
    });
  for (Group& group : groups)
    for (const Run* run : runs)
      explained(*run, [&] {
        if (run->mitigations() != "none" && identity(*run) == identity(*group.plain))
          group.mitigated.push_back(run);
      });
  std::erase_if(groups, [](const Group& group) { return group.mitigated.empty(); });
  return groups;
}

}  // namespace stuffed::report
