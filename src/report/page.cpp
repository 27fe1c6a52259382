#include "page.h"

#include <fmt/format.h>

#include "assets.h"
#include "stuffed/core/version.h"

namespace stuffed::report {

namespace {

/// An element whose text is ours and must not be escaped. Nothing in it may end it.
std::string element(std::string_view tag, std::string_view text) {
  return fmt::format("<{0}>{1}</{0}>\n", tag, text);
}

std::string head(std::string_view title) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      "<meta name=\"color-scheme\" content=\"light dark\">\n"
      "<meta name=\"generator\" content=\"stuffed report {}\">\n<link rel=\"icon\" "
      "href=\"data:,\">\n"
      "<title>{}</title>\n{}</head>\n",
      escaped(build_info().version), escaped(title), element("style", assets().style));
}

std::string built_by() {
  const BuildInfo& build = build_info();
  return fmt::format("stuffed {}, commit {}{}", build.version, build.commit.substr(0, 12),
                     build.dirty ? " with changes" : "");
}

std::string scripts(const io::json& figures) {
  return fmt::format("<script type=\"application/json\" id=\"figures\">{}</script>\n",
                     script_json(figures)) +
         element("script", assets().bokeh) + element("script", assets().bokeh_api) +
         element("script", assets().script);
}

std::string licence() {
  return details("Licence of BokehJS, with which the figures are drawn",
                 fmt::format("<pre>{}</pre>\n", escaped(assets().bokeh_licence)), false);
}

}  // namespace

void Page::section(std::string_view id, std::string_view title) {
  if (!contents_.empty())
    body_ += "</section>\n";
  contents_.emplace_back(id, title);
  body_ += fmt::format(
      "<section id=\"{0}\" aria-labelledby=\"{0}-title\">\n<h2 id=\"{0}-title\">{1}</h2>\n",
      escaped(id), escaped(title));
}

void Page::heading(std::string_view text) {
  body_ += fmt::format("<h3>{}</h3>\n", escaped(text));
}

void Page::figure(io::json figure, std::string_view about, std::string_view tables) {
  body_ += fmt::format(
      "<figure>\n<figcaption>{0}</figcaption>\n"
      "<div class=\"plot\" data-figure=\"{1}\" role=\"group\" "
      "aria-label=\"{0}\"></div>\n{2}</figure>\n",
      escaped(about), figures_.size(), tables);
  figures_.push_back(std::move(figure));
}

void Page::warn(const std::string& sentence) {
  body_ += fmt::format("<p class=\"warning\">{}</p>\n", escaped(sentence));
  warnings_.push_back(sentence);
}

std::string Page::html(std::string_view title) const {
  std::string contents;
  for (const auto& [id, name] : contents_)
    contents += fmt::format("<li><a href=\"#{}\">{}</a></li>", escaped(id), escaped(name));
  return head(title) +
         "<body>\n<a class=\"skip\" href=\"#main\">Skip to the results</a>\n<header>\n" +
         fmt::format("<h1>{}</h1>\n", escaped(title)) +
         "<button type=\"button\" id=\"scheme\" hidden>Dark</button>\n" +
         fmt::format(
             "<nav aria-label=\"Contents\"><ul>{}</ul></nav>\n</header>\n<main id=\"main\">\n",
             contents) +
         "<noscript><p class=\"warning\">The figures need JavaScript; their numbers are in the "
         "tables "
         "beneath them.</p></noscript>\n" +
         body_ + (contents_.empty() ? "" : "</section>\n") + "</main>\n<footer>\n" +
         fmt::format(
             "<p>Made by {}. Losses are in nats, lengths and positions in tokens, K = 1024.</p>\n",
             escaped(built_by())) +
         licence() + "</footer>\n" + scripts(figures_) + "</body>\n</html>\n";
}

}  // namespace stuffed::report
