// Byte-pair encoding against what the `tokenizers` package made of the same texts with the same
// small tokenizers (scripts/make/make_test_tokenizers.py), and the choice of a tokenizer by a folder's
// files.
#include <fstream>

#include "stuffed/core/error.h"
#include "stuffed/io/json.h"
#include "stuffed/io/tokenizer.h"

namespace stuffed::io {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

const fs::path kData = fs::path(STUFFED_SOURCE_DIR) / "tests/data/tokenizers";

void expect_vectors(const std::string& file, const char* key) {
  const auto tokenizer = load_tokenizer((kData / file).string());
  const json vectors = read_json(kData / "vectors.json");
  ASSERT_GT(vectors.size(), 100u);
  for (const json& vector : vectors)
    EXPECT_EQ(tokenizer->encode(vector["text"].get<std::string>()), vector[key].get<Ids>())
        << file << ": " << vector["text"];
}

TEST(NeoxBpe, MatchesTokenizersPackage) {
  expect_vectors("small_neox.json", "neox");
}
TEST(NeoxBpe, MergesAsStringsAreTheSame) {
  expect_vectors("small_neox_text.json", "neox");
}
TEST(SpmJson, MatchesTokenizersPackage) {
  expect_vectors("small_spm.json", "spm");
}

TEST(NeoxBpe, DecodeReturnsTheNormalizedText) {
  const auto tokenizer = load_tokenizer((kData / "small_neox.json").string());
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("  e\u0301 日本語\n<|endoftext|>")),
            "  é 日本語\n<|endoftext|>");
  const Ids ids = tokenizer->encode("語");
  if (ids.size() > 1) {
    EXPECT_EQ(tokenizer->decode(Ids{ids[0]}), "\uFFFD");
  }
}

TEST(SpmJson, PolicyAndDecode) {
  const auto tokenizer = load_tokenizer((kData / "small_spm.json").string());
  EXPECT_EQ(tokenizer->kind(), "sentencepiece");
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(" a 🙂日\tb")), " a 🙂日\tb");
  EXPECT_EQ(tokenizer->decode(Ids{3 + 0xE6, 3 + 0x97}), "\uFFFD\uFFFD");  // two bytes of three
  EXPECT_EQ(load_tokenizer(tokenizer->source(), {.add_bos = false})->bos(), std::nullopt);
}

TEST(Tokenizers, TextThatIsNotUtf8IsRefusedWhereTheAlgorithmNeedsUnicode) {
  for (const char* file : {"small_neox.json", "small_spm.json"})
    for (const char* bad : {"\x80", "ab\xC0\xAF", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xE6\x97"}) {
      const auto tokenizer = load_tokenizer((kData / file).string());
      EXPECT_THROW(tokenizer->encode(bad), Error) << file;
    }
  const std::string bytes = "\x80 ab\xC0\xAF\xED\xA0";
  const auto tokenizer = load_tokenizer("bytes");
  EXPECT_EQ(tokenizer->encode(bytes).size(), bytes.size());
  EXPECT_EQ(tokenizer->decode_bytes(tokenizer->encode(bytes)), bytes);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("\xE6\x97 a")), "\uFFFD a");
  EXPECT_EQ(tokenizer->vocab_size(), 256);
  EXPECT_EQ(tokenizer->bos(), std::nullopt);
}

// Long words take another path than short ones; both must agree with merging symbol by symbol.
TEST(NeoxBpe, LongWordsAreWhatTheirSafePartsAre) {
  const auto tokenizer = load_tokenizer((kData / "small_neox.json").string());
  std::string word;
  for (int i = 0; i < 20000; ++i)
    word += "abcdefghijklmnopqrstuvwxyz"[(i * i + i / 7) % 26];
  const Ids ids = tokenizer->encode(word);
  EXPECT_EQ(tokenizer->decode(ids), word);
  EXPECT_LT(ids.size(), word.size());
}

class Folder : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(::testing::TempDir()) /
              ::testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void put(const char* name, const std::string& content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
  }
  std::string message() const {
    try {
      find_tokenizer(folder_);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), Error::Kind::Input);
      return error.what();
    }
    return "";
  }

  fs::path folder_;
};

TEST_F(Folder, WithoutATokenizerSaysWhatIsLookedForAndHowToGetIt) {
  for (const char* word : {"tokenizer.json", "tokenizer.model", "rwkv_vocab*.txt",
                           "stuffed_tokenizer.json", "gpt-neox-20b", "rwkv 0.8.32", "--tokenizer"})
    EXPECT_NE(message().find(word), std::string::npos) << word << " in: " << message();
  EXPECT_THROW(load_tokenizer((folder_ / "nothing.json").string()), Error);
}

TEST_F(Folder, TokenizerJsonGoesBeforeTheOthers) {
  put("stuffed_tokenizer.json", R"({"tokenizer": "bytes"})");
  EXPECT_EQ(find_tokenizer(folder_)->kind(), "bytes");
  EXPECT_EQ(find_tokenizer(folder_ / "model.safetensors")->kind(), "bytes");
  fs::copy_file(kData / "small_neox.json", folder_ / "tokenizer.json");
  EXPECT_EQ(find_tokenizer(folder_)->kind(), "neox-bpe");
  EXPECT_EQ(load_tokenizer(folder_.string())->hash(), find_tokenizer(folder_)->hash());
}

TEST_F(Folder, BrokenTokenizerJsonIsRefusedByName) {
  const json good = read_json(kData / "small_neox.json");
  const auto refuses = [&](const json& description, const char* part) {
    put("tokenizer.json", description.dump());
    EXPECT_NE(message().find(part), std::string::npos) << message();
    EXPECT_NE(message().find("tokenizer.json"), std::string::npos);
  };
  json bad = good;
  bad["model"]["merges"].push_back({"qzqz", "x"});
  refuses(bad, "'qzqz', which is not in the vocabulary");
  bad = good;
  bad["model"]["vocab"]["zz9"] = 2000000000;
  refuses(bad, "token id 2000000000");
  bad = good;
  bad["model"]["type"] = "WordPiece";
  refuses(bad, "WordPiece");
  bad = good;
  bad["normalizer"]["type"] = "NFKC";
  refuses(bad, "NFKC");
  bad = good;
  bad["model"]["dropout"] = 0.1;
  refuses(bad, "dropout");
  bad = good;
  bad["added_tokens"][0]["lstrip"] = true;
  refuses(bad, "lstrip");
  put("tokenizer.json", good.dump().substr(0, 1000));
  EXPECT_NE(message(), "");
  put("tokenizer.json", "[1,2]");
  EXPECT_NE(message(), "");
  put("tokenizer.json", "");
  EXPECT_NE(message().find("empty"), std::string::npos);
}

}  // namespace
}  // namespace stuffed::io
