// stuffed inspect: what a checkpoint is, without running it.
#include "stuffed/eval/inspect.h"

#include <cstdio>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "src/cli/print.h"

namespace stuffed::cli {

namespace {

struct InspectOptions {
  std::string model, tokenizer, gated_norm;
  bool json = false;
};

std::string mebibytes(const io::json& bytes) {
  return fmt::format("{:.1f} MiB", bytes.get<double>() / (1 << 20));
}

std::string describe_fits(const io::json& fits) {
  const io::json &forget = fits["forget_training_tokens"], &recall = fits["recall_tokens"];
  const char* const below = "below the fitted sizes";
  return fmt::format(
      "learns to forget: {}; recalls a passkey: {}",
      forget.is_null() ? below
                       : fmt::format("when trained at {:.0f} tokens or more", forget.get<double>()),
      recall.is_null() ? below : fmt::format("up to {:.3g} tokens", recall.get<double>()));
}

std::string where_in_the_fits(const io::json& fits) {
  if (fits["extrapolated"].get<bool>())
    return "this state is larger: an extrapolation";
  const bool is_below = fits["forget_training_tokens"].is_null() || fits["recall_tokens"].is_null();
  return is_below ? "this state is smaller than those of the fits" : "this state is within";
}

std::string table(const io::json& found) {
  const io::json &state = found["state"], &fits = found["paper_fits"],
                 &tokenizer = found["tokenizer"];
  std::string text;
  const auto row = [&](const char* name, const std::string& value) {
    text += fmt::format("{:<16} {}\n", name, value);
  };
  row("family", found["family"].get<std::string>());
  row("layout", fmt::format("{}, because {}", found["layout"].get<std::string>(),
                            found["why"].get<std::string>()));
  if (!found["config"]["keys"].is_null())
    row("config", found["config"]["keys"].get<std::string>() + " keys");
  if (!found["gated_norm"].is_null())
    row("gated norm", found["gated_norm"] == "group" ? "over each group" : "over the whole width");
  for (const auto& warning : found["warnings"])
    row("warning", warning.get<std::string>());
  row("parameters", fmt::format("{}", found["parameters"].get<int64_t>()));
  row("shape", fmt::format("d_model {}, {} layers, {} heads, state {} x {} per head",
                           found["d_model"].get<int64_t>(), found["layers"].get<int64_t>(),
                           found["heads"].get<int64_t>(), found["key_width"].get<int64_t>(),
                           found["value_width"].get<int64_t>()));
  row("vocabulary", fmt::format("{} ({} rows)", found["vocab"].get<int64_t>(),
                                found["padded_vocab"].get<int64_t>()));
  row("tensors", found["tensors"]["by_dtype"].dump());
  for (const auto& file : found["files"])
    row("file", fmt::format("{}, {}, sha256 {}", file["file"].get<std::string>(),
                            mebibytes(file["bytes"]), file["sha256"].get<std::string>()));
  row("model hash", found["model_hash"].get<std::string>());
  row("tokenizer",
      tokenizer["kind"].is_null()
          ? "none: " + tokenizer["reason"].get<std::string>()
          : fmt::format("{} ({} ids) from {}", tokenizer["kind"].get<std::string>(),
                        tokenizer["vocab"].get<int64_t>(), tokenizer["source"].get<std::string>()));
  row("state", fmt::format("{} elements, {} in f32: the recurrence alone",
                           state["recurrence_elements"].get<int64_t>(),
                           mebibytes(state["recurrence_bytes_f32"])));
  row("", fmt::format("{} elements, {} in f32: with W-1 convolution columns or shift rows",
                      state["with_columns_elements"].get<int64_t>(),
                      mebibytes(state["with_columns_bytes_f32"])));
  row("paper's fits", describe_fits(fits));
  row("", fmt::format("{} ({})", fits["caution"].get<std::string>(), where_in_the_fits(fits)));
  return text;
}

}  // namespace

void add_inspect(CLI::App& root, Commands& commands) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* app = add_subcommand(
      root, "inspect",
      "Describe a checkpoint: family, layout, parameters, dtypes, shapes, tokenizer, hashes, state "
      "size, and what the paper's fits predict for that size. Weights are not read into memory.",
      "  stuffed inspect mamba2-130m\n"
      "  stuffed inspect RWKV-x060-World-1B6.pth --json > model.json\n");
  add_checkpoint(*app, "model,--model", options->model,
                 "Folder or weight file of the model, or a repository in Hugging Face's cache")
      ->required();
  add_checkpoint(*app, "--tokenizer", options->tokenizer,
                 "tokenizer.json, tokenizer.model, a World vocabulary, a folder or repository with "
                 "one of them, or 'bytes' (default: the one in the model's folder)")
      ->type_name("PATH|NAME|bytes");
  add_gated_norm(*app, options->gated_norm, "Options");
  app->add_flag("--json", options->json,
                "Print one JSON object, with every tensor's shape and dtype");
  commands.push_back({.app = app, .run = [options](Context&) {
                        const io::json found =
                            eval::inspect(options->model, options->tokenizer, options->gated_norm);
                        for (const auto& warning : found["warnings"])
                          cli::print(stderr, "warning: {}\n", warning.get<std::string>());
                        cli::print(stdout, "{}",
                                   options->json ? found.dump(2) + "\n" : table(found));
                      }});
}

}  // namespace stuffed::cli
