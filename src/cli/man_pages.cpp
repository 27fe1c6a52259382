// `stuffed man-pages`: what man reads, made from the help.
#include "src/cli/help/man_pages.h"

#include <filesystem>
#include <memory>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"

namespace stuffed::cli {

namespace {

void write_man_pages(const CLI::App& root, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check(std::filesystem::is_directory(folder), Error::Kind::Output, "{}: cannot be made: {}",
        folder.string(), error.message());
  for (const auto& [name, page] : man_pages(root))
    io::write_text(folder / name, page);
}

}  // namespace

void add_man_pages(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(root, "man-pages", "Write the manual pages, as installing does",
                                 "  stuffed man-pages ~/.local/share/man/man1\n");
  auto folder = std::make_shared<std::string>();
  app->add_option("DIR", *folder, "Folder for stuffed.1 and a page per command; made if absent")
      ->type_name("")
      ->required();
  commands.push_back(
      {.app = app, .run = [&root, folder](Context&) { write_man_pages(root, *folder); }});
}

}  // namespace stuffed::cli
