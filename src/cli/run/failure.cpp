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
  const bool says_nothing = dynamic_cast<const std::bad_alloc*>(&error) != nullptr;
  return {static_cast<int>(Error::Kind::Memory),
          "out of memory" +
              (says_nothing ? "" : fmt::format(" ({})", text.substr(0, text.find('\n'))))};
}

}  // namespace stuffed::cli
