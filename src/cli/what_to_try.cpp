#include "src/cli/what_to_try.h"

#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/ranges.h>

#include "stuffed/core/memory.h"

namespace stuffed::cli {

namespace {

bool has_option(const CLI::App& command, const std::string& name) {
  return command.get_option_no_throw(name) != nullptr;
}

std::string gibibytes(int64_t bytes) {
  return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (int64_t{1} << 30));
}

/// The options of a command by which it takes less memory.
std::string what_takes_less(const CLI::App& command) {
  std::vector<std::string> found;
  for (const char* name : {"--batch-size", "--batch", "--segment"})
    if (has_option(command, name))
      found.push_back(fmt::format("a smaller {}", name));
  if (has_option(command, "--recompute"))
    found.emplace_back("--recompute");
  return found.empty() ? "" : fmt::format("; try {}", fmt::join(found, " or "));
}

/// Command lines that fit by estimate; none if what failed should have.
std::vector<std::string> fitting(const CLI::App& command,
                                 const RecurrentLM& model,
                                 const eval::Feeding& feeding,
                                 int64_t free_bytes) {
  std::vector<std::string> found;
  if (has_option(command, "--batch-size") && feeding.rows > 1)
    if (const int64_t rows = rows_that_fit(model, feeding, free_bytes, feeding.rows - 1); rows > 0)
      found.push_back(fmt::format("--batch-size {}", rows));
  if (const int64_t tokens = segment_that_fits(model, feeding, free_bytes); tokens > 0)
    found.push_back(fmt::format("--segment {}", tokens));
  return found;
}

}  // namespace

std::string what_to_try(const CLI::App& command, const Context& context) {
  const RecurrentLM* const model = context.models.loaded();
  if (context.models.is_loading())
    return ": the model itself does not fit; try --dtype bf16 or another --device";
  if (model == nullptr)
    return what_takes_less(command);
  const int64_t free_bytes = free_memory_bytes(model->device());
  if (!context.feeding)
    return fmt::format(": {} are free{}", gibibytes(free_bytes), what_takes_less(command));
  const eval::Feeding& feeding = *context.feeding;
  const int64_t needed = feeding_bytes(model->config(), model->dtype(), feeding);
  const std::string what = fmt::format(
      ": {} sequences of {} tokens each take an estimated {} besides the weights, and {} are free",
      feeding.rows, feeding.segment_tokens, gibibytes(needed), gibibytes(free_bytes));
  const std::vector<std::string> fits =
      needed > free_bytes ? fitting(command, *model, feeding, free_bytes - free_bytes / 8)
                          : std::vector<std::string>();
  return what + (fits.empty() ? what_takes_less(command)
                              : fmt::format("; a new run fits with {}", fmt::join(fits, ", or ")));
}

}  // namespace stuffed::cli
