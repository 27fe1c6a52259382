// Parse, run, and turn whatever went wrong into one line on stderr and an exit code.
#include <cstdio>
#include <cstdlib>
#include <new>
#include <string_view>

#include <c10/util/Exception.h>

#include "src/cli/app.h"
#include "stuffed/core/error.h"

namespace {

using stuffed::Error;

int complain(Error::Kind kind, std::string_view message) {
  fmt::print(stderr, "stuffed: {}\n", message);
  return static_cast<int>(kind);
}

/// LibTorch reports a failed allocation on the CPU as an ordinary error whose text says so.
bool is_out_of_memory(std::string_view text) {
  return text.find("allocate memory") != text.npos || text.find("not enough memory") != text.npos;
}

int out_of_memory(std::string_view why) {
  return complain(Error::Kind::Memory,
                  fmt::format("out of memory; try a smaller --batch-size or --segment{}{}",
                              why.empty() ? "" : " (", why.empty() ? "" : fmt::format("{})", why)));
}

}  // namespace

int main(int argc, char** argv) {
  // LibTorch then asks for large tensors in huge pages: a pass makes and drops gigabytes of them,
  // and taking those from the system 4 KB at a time cost a twelfth of it.
  setenv("THP_MEM_ALLOC_ENABLE", "1", /*overwrite=*/0);
  try {
    stuffed::cli::run(argc, argv);
    const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
    stuffed::check(written, Error::Kind::Output, "standard output could not be written");
    return 0;
  } catch (const Error& error) {
    return complain(error.kind(), error.what());
  } catch (const std::bad_alloc&) {
    return out_of_memory("");
  } catch (const c10::OutOfMemoryError& error) {
    return out_of_memory(error.what_without_backtrace());
  } catch (const c10::Error& error) {
    const std::string_view text = error.what_without_backtrace();
    return is_out_of_memory(text) ? out_of_memory(text) : complain(Error::Kind::Internal, text);
  } catch (const std::exception& error) {
    return complain(Error::Kind::Internal, error.what());
  }
}
