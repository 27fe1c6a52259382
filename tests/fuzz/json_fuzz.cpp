// JSON with the literals that model files hold: what is parsed can be written again.
#include "stuffed/io/json.h"
#include "tests/fuzz/fuzz.h"

namespace stuffed::fuzz {

void fuzz_json(const uint8_t* data, size_t size) {
  may_refuse([&] {
    if (io::parse_json(as_text(data, size), "config.json").dump().empty())
      broken("a value without a text");
  });
}

}  // namespace stuffed::fuzz
