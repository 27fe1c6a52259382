// The page as it grows: sections of HTML, and the figures that the script draws into them.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "html.h"

namespace stuffed::report {

class Page {
 public:
  void section(std::string_view id, std::string_view title);
  /// A heading within a section: of one run, say.
  void heading(std::string_view text);
  void add(std::string_view html) { body_ += html; }
  /// A figure and, beneath it, its numbers: tables as HTML.
  /// `figure`: as report.js knows them; `about`: what is seen, for everyone, and for those who do
  /// not see it
  void figure(io::json figure, std::string_view about, std::string_view tables);
  /// What is missing, shown at the place.
  void warn(const std::string& sentence);

  const std::vector<std::string>& warnings() const { return warnings_; }
  /// The whole page.
  std::string html(std::string_view title) const;

 private:
  std::vector<std::pair<std::string, std::string>> contents_;  // id and title of the sections
  std::string body_;
  io::json figures_ = io::json::array();
  std::vector<std::string> warnings_;
};

}  // namespace stuffed::report
