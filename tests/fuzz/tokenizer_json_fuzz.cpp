// tokenizer.json of both kinds (GPT-NeoX and SentencePiece): what is accepted encodes any text into
// ids of its own vocabulary, and decodes each of them.
#include "src/io/tokenizers/tokenizers.h"
#include "tests/fuzz/fuzz.h"

namespace stuffed::fuzz {

namespace {

const std::vector<std::string>& texts() {
  static const std::vector<std::string> all = [] {
    std::string word;  // longer than what is merged by scanning
    for (int i = 0; i < 300; ++i)
      word += "etaoinshrdlu"[i * i % 12];
    return std::vector<std::string>{"",
                                    " ",
                                    "a b  c\n\n d",
                                    "<|endoftext|><s>x</s> y",
                                    "\xE2\x96\x81 \xE6\x97\xA5\xF0\x9F\x99\x82"
                                    "e\xCC\x81",
                                    word};
  }();
  return all;
}

void use(const io::Tokenizer& tokenizer) {
  std::vector<int32_t> ids;
  for (const std::string& text : texts())
    for (const int32_t id : tokenizer.encode(text)) {
      if (id < 0 || id >= tokenizer.vocab_size())
        broken("an id outside the vocabulary");
      ids.push_back(id);
    }
  tokenizer.decode(ids);
  const auto beyond = static_cast<int32_t>(tokenizer.vocab_size());
  for (int32_t id = -1; id <= std::min(beyond, 4096); ++id)
    tokenizer.decode(std::vector<int32_t>{id});
}

}  // namespace

void fuzz_tokenizer_json(const uint8_t* data, size_t size) {
  const std::string content(as_text(data, size));
  const size_t first = content.find_first_not_of(" \t\r\n");
  if (first == std::string::npos || content[first] != '{')
    return;  // another kind of tokenizer
  for (const bool special : {true, false})
    may_refuse([&] {
      use(*io::make_tokenizer({"tokenizer.json", content, ""},
                              {.add_bos = special, .parse_special = special}));
    });
}

}  // namespace stuffed::fuzz
