#include "src/cli/table.h"

#include <algorithm>

#include <fmt/format.h>

#include "stuffed/core/shown.h"

namespace stuffed::cli {

std::string cell(const io::json& value, std::string_view missing) {
  return value.is_number() ? fmt::format("{:.4g}", value.get<double>()) : std::string(missing);
}

std::string bar(double share) {
  constexpr double kColumns = 30;
  std::string out;
  for (int i = 0; i < static_cast<int>(std::clamp(share, 0.0, 1.0) * kColumns + 0.5); ++i)
    out += "█";
  return out;
}

std::string skipped_documents(const io::json& summary) {
  const io::json& skipped = summary.at("skipped");
  return skipped.empty() ? ""
                         : fmt::format("too short and left out: {}\n",
                                       counted(std::ssize(skipped), "document"));
}

}  // namespace stuffed::cli
