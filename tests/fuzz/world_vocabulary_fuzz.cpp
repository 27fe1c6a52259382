// A World vocabulary: what is accepted spells every text exactly. Since few inputs keep all 256
// single bytes, the input is also read as the lines that follow those.
#include "src/io/tokenizers/tokenizers.h"
#include "tests/fuzz/fuzz.h"

namespace stuffed::fuzz {

namespace {

std::string single_bytes() {
  std::string lines;
  for (int byte = 0; byte < 256; ++byte)
    lines += fmt::format("{} b'\\x{:02x}' 1\n", byte + 1, byte);
  return lines;
}

void read(const std::string& vocabulary, std::string_view text) {
  may_refuse([&] {
    const auto tokenizer = io::make_rwkv_tokenizer({"vocab.txt", vocabulary, ""});
    const auto ids = tokenizer->encode(text);
    if (tokenizer->decode_bytes(ids) != text)
      broken("encoding lost a byte");
    tokenizer->decode(ids);
  });
}

}  // namespace

void fuzz_world_vocabulary(const uint8_t* data, size_t size) {
  static const std::string singles = single_bytes();
  const std::string content(as_text(data, size));
  if (!content.empty() && content[0] >= '0' && content[0] <= '9')
    read(content, content);
  read(singles + content, content);
}

}  // namespace stuffed::fuzz
