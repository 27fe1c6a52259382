// libFuzzer's way into the target that FUZZ_TARGET names.
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  stuffed::fuzz::FUZZ_TARGET(data, size);
  return 0;
}
