// The fuzz targets in the ordinary tests: their corpora, and a few hundred damaged copies of each
// file.
#include <fstream>

#include <gtest/gtest.h>

#include "stuffed/core/rng.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/files.h"

namespace stuffed::fuzz {
namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  void (*run)(const uint8_t* data, size_t size);
};

constexpr Target kTargets[] = {
#define TARGET(name) {#name, fuzz_##name},
#include "tests/fuzz/targets.inc"
#undef TARGET
};

void run(const Target& target, const std::string& bytes) {
  target.run(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

std::vector<fs::path> corpus_of(const Target& target) {
  std::vector<fs::path> files;
  for (const auto& file :
       fs::directory_iterator(fs::path(STUFFED_SOURCE_DIR) / "tests/fuzz/corpus" / target.name))
    files.push_back(file.path());
  std::ranges::sort(files);
  return files;
}

/// Cut, overwritten, or with a part moved: what a bad disk and a bad neighbour do.
std::string damaged(std::string bytes, Rng& rng) {
  const auto below = [&](size_t limit) {
    return static_cast<size_t>(rng.next() % std::max<size_t>(limit, 1));
  };
  const size_t kind = below(3);
  if (bytes.empty() || kind == 0)
    return bytes.substr(0, below(bytes.size()));
  const size_t changes = 1 + below(4);
  for (size_t i = 0; i < changes; ++i) {
    if (kind == 1)
      bytes[below(bytes.size())] = static_cast<char>(rng.next());
    else
      bytes.insert(below(bytes.size()), bytes.substr(below(bytes.size()), 1 + below(16)));
  }
  return bytes;
}

class FuzzCorpus : public ::testing::TestWithParam<Target> {};

TEST_P(FuzzCorpus, IsReadOrRefused) {
  const auto files = corpus_of(GetParam());
  ASSERT_GE(files.size(), 2u);
  for (const fs::path& file : files)
    EXPECT_NO_THROW(run(GetParam(), testing::read_bytes(file))) << file;
}

TEST_P(FuzzCorpus, DamagedIsReadOrRefused) {
  constexpr int kCopies = 300;  // of all files together
  const auto files = corpus_of(GetParam());
  Rng rng(1, GetParam().name);
  for (int i = 0; i < kCopies; ++i) {
    const fs::path& file = files[static_cast<size_t>(i) % files.size()];
    const std::string bytes = damaged(testing::read_bytes(file), rng);
    ASSERT_NO_THROW(run(GetParam(), bytes)) << "copy " << i << " of " << file;
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzCorpus, ::testing::ValuesIn(kTargets), [](const auto& info) {
  return std::string(info.param.name);
});

}  // namespace
}  // namespace stuffed::fuzz
