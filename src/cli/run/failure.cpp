#include "src/cli/run/failure.h"

#include <new>

#include <c10/util/Exception.h>

#include "stuffed/core/error.h"
#include "stuffed/core/memory.h"

namespace stuffed::cli {

Failure failure_of(const std::exception& error) {
  if (const auto* const own = dynamic_cast<const Error*>(&error))
    return {own->exit_code(), own->what()};
  const auto* const torch = dynamic_cast<const c10::Error*>(&error);
  const std::string text = torch ? torch->what_without_backtrace() : error.what();
  if (!is_out_of_memory(error))
    return {static_cast<int>(Error::Kind::Internal), text};
  const std::string why =
      dynamic_cast<const std::bad_alloc*>(&error) ? "" : fmt::format(" ({})", text);
  return {static_cast<int>(Error::Kind::Memory),
          "out of memory; try a smaller --batch-size or --segment" + why};
}

}  // namespace stuffed::cli
