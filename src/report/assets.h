// Files that are part of the program: third_party/Report.cmake embeds them.
#pragma once
#include <string_view>

namespace stuffed::report {

struct Assets {
  std::string_view style, script;     // ours
  std::string_view bokeh, bokeh_api;  // of the wheel `bokeh`; empty if the build had none
  std::string_view bokeh_licence;
};

const Assets& assets();

}  // namespace stuffed::report
