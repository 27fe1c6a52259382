// `stuffed completion`: what shells read, made from the help.
#include "src/cli/help/completion.h"

#include <memory>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"

namespace stuffed::cli {

void add_completion(CLI::App& root, Commands& commands) {
  CLI::App* app = add_subcommand(
      root, "completion", "Print a script that completes commands, options and values in a shell",
      "  source <(stuffed completion bash)\n"
      "  stuffed completion bash >> ~/.bash_completion\n"
      "  stuffed completion zsh > \"${fpath[1]}/_stuffed\"\n");
  auto shell = std::make_shared<std::string>();
  app->add_option("SHELL", *shell, "bash or zsh")
      ->check(CLI::IsMember({"bash", "zsh"}).description(""))
      ->type_name("")
      ->required();
  commands.push_back({.app = app, .run = [&root, shell](Context&) {
                        cli::print(stdout, "{}",
                                   *shell == "bash" ? bash_completion(root) : zsh_completion(root));
                      }});
}

}  // namespace stuffed::cli
