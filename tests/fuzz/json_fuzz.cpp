#include <string_view>

#include "stuffed/io/json.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto value =
        stuffed::io::parse_json({reinterpret_cast<const char*>(data), size}, "config.json");
    if (value.dump().empty())
      std::abort();
  } catch (const stuffed::Error& error) {
    if (error.kind() != stuffed::Error::Kind::Input)
      std::abort();
  }
  return 0;
}
