// The parts of a figure, as report.js draws them. A panel is a JSON object; a figure is
// {"panels":[...], "legend":[{"name","style"}], ...}.
#pragma once
#include <limits>
#include <string>
#include <vector>

#include "curves.h"
#include "html.h"
#include "run.h"

namespace stuffed::report {

struct Axis {
  static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  std::string label;
  bool log = false;
  double least = kNone, most = kNone;  // kNone: as the data are
};

/// A panel without series: add them with add_series().
io::json lines_panel(const std::string& title, const Axis& x, const Axis& y);

/// A curve, with its band if `low` and `high` are not empty.
struct Series {
  std::string name;
  int style = 0;  // colour and dash
  std::vector<double> x, y, low = {}, high = {};
  double shade = -1;        // 0 to 1: a colour of an ordered scale instead of the style's
  bool has_points = false;  // a dot at each value
  bool is_dashed = false;   // of an ordered scale
};
void add_series(io::json& panel, const Series& series);

/// A vertical line with its name: a training length.
void add_rule(io::json& panel, double x, const std::string& label);
/// "training length 8K", for each that the runs have.
void add_train_lengths(io::json& panel, const Runs& runs);

/// A mark on a curve.
void add_point(io::json& panel, double x, double y, int style, const std::string& label);

/// Names and styles of the runs, in their order, and which are not shown at first.
io::json legend_of(const Runs& runs);

}  // namespace stuffed::report
