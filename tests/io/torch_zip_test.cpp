// What torch.save wrote (scripts/make/make_test_files.py), and archives and pickles damaged by hand.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/io/tensor_file.h"
#include "tests/support/files.h"
#include "tests/support/pickle_writer.h"
#include "tests/support/zip_writer.h"

namespace stuffed::io {
namespace {

using testing::expect_error;
using testing::item;
using testing::pickle;
using testing::TempFolder;
using testing::text;
using testing::View;
using testing::zip_archive;
using testing::ZipMember;

TensorFile open_data(const std::string& name) {
  return TensorFile::open(fs::path(STUFFED_SOURCE_DIR) / "tests/data/torch" / name);
}

Tensor ramp(std::vector<int64_t> shape, at::ScalarType dtype = at::kFloat) {
  return at::arange(c10::multiply_integers(shape), at::kDouble).to(dtype).view(shape);
}

TEST(TorchZip, ReadsEveryGoldenCheckpoint) {
  int zips = 0;
  for (const auto& folder : fs::directory_iterator(fs::path(STUFFED_SOURCE_DIR) / "tests/golden")) {
    if (!fs::exists(folder.path() / "golden.safetensors"))
      continue;
    const fs::path weights = find_weights(folder.path());
    const auto file = TensorFile::open(weights);
    EXPECT_GT(file.entries().size(), 10u) << weights;
    for (const auto& [name, entry] : file.entries())
      EXPECT_TRUE(file.load(name).to(at::kFloat).isfinite().all().item<bool>()) << name;
    zips += weights.extension() != ".safetensors";
  }
  EXPECT_GE(zips, 7);
}

TEST(TorchZip, HonoursViewsStridesAndSharedStorages) {
  const auto file = open_data("views.pt");
  const Tensor base = ramp({4, 6});
  EXPECT_TRUE(file.load("base").equal(base));
  EXPECT_TRUE(file.load("row").equal(base[2]));
  EXPECT_TRUE(file.load("column").equal(base.select(1, 1)));
  EXPECT_TRUE(file.load("transposed").equal(base.t()));
  EXPECT_FALSE(file.load("transposed").is_contiguous());
  EXPECT_TRUE(file.load("expanded").equal(at::ones({5})));
  EXPECT_TRUE(file.load("scalar").equal(at::scalar_tensor(7.0F)));
  EXPECT_EQ(file.load("empty").sizes(), (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(file.entries().at("base").storage, file.entries().at("tied").storage);
  EXPECT_NE(file.entries().at("base").storage, file.entries().at("expanded").storage);
  EXPECT_EQ(file.load("base").data_ptr(), file.load("tied").data_ptr());
}

TEST(TorchZip, ReadsEveryTypeOfOneFile) {
  const auto file = open_data("types.pth");
  const std::map<std::string, at::ScalarType> types = {
      {"torch.float64", at::kDouble}, {"torch.float32", at::kFloat},
      {"torch.float16", at::kHalf},   {"torch.bfloat16", at::kBFloat16},
      {"torch.int64", at::kLong},     {"torch.int32", at::kInt},
      {"torch.int16", at::kShort},    {"torch.int8", at::kChar},
      {"torch.uint8", at::kByte}};
  EXPECT_EQ(file.entries().size(), types.size());
  for (const auto& [name, dtype] : types) {
    EXPECT_EQ(file.entries().at(name).dtype, dtype) << name;
    EXPECT_TRUE(file.load(name).equal(ramp({3, 5}, dtype))) << name;
  }
}

TEST(TorchZip, ReadsADictOfOneEntryAndAModulesMetadata) {
  EXPECT_TRUE(open_data("one_entry.bin").load("only").equal(ramp({7})));
  const auto module = open_data("module.pt");
  EXPECT_EQ(module.entries().size(), 4u);
  EXPECT_TRUE(module.load("0.weight").equal(ramp({3, 2})));
  EXPECT_TRUE(module.load("1.bias").equal(ramp({3})));
}

TEST(TorchZip, ReadsShards) {
  const auto file = open_data("sharded/pytorch_model.bin.index.json");
  EXPECT_TRUE(file.load("a").equal(ramp({2, 3})));
  EXPECT_TRUE(file.load("b").equal(ramp({5}, at::kBFloat16)));
}

TEST(TorchZip, WhatIsNoStateDictIsRefusedByName) {
  expect_error(Error::Kind::Input, {"legacy.pt", "legacy"}, [] { open_data("legacy.pt"); });
  expect_error(Error::Kind::Input, {"foreign.pt", "argparse.Namespace", "never executed"},
               [] { open_data("foreign.pt"); });
  expect_error(Error::Kind::Input, {"nested.pt", "\"model\"", "a dict"},
               [] { open_data("nested.pt"); });
}

std::string ramp_bytes() {
  const float values[] = {0, 1, 2, 3};
  return {reinterpret_cast<const char*>(values), sizeof values};
}

std::vector<ZipMember> archive(const std::string& data_pkl) {
  return {{.name = "m/data.pkl", .data = data_pkl}, {.name = "m/data/0", .data = ramp_bytes()}};
}

class HostileZip : public ::testing::Test {
 protected:
  void refused(const std::string& bytes, const std::string& message) {
    SCOPED_TRACE(message);
    expect_error(Error::Kind::Input, {"bad.pth", message},
                 [&] { TensorFile::open(folder_.write("bad.pth", bytes)); });
  }
  void refused(const std::vector<ZipMember>& members, const std::string& message) {
    refused(zip_archive(members), message);
  }
  void refused_pickle(const std::string& data_pkl, const std::string& message) {
    refused(archive(data_pkl), message);
  }
  void refused(const View& view, const std::string& message) {
    refused_pickle(pickle(item(view)), message);
  }

  TempFolder folder_;
};

TEST_F(HostileZip, TheArchivesMadeHereAreReadWhenUndamaged) {
  auto members = archive(pickle(item({})));
  members[1].local_extra = std::string("FB\5\0ZZZZZ", 9);  // misaligns the data
  members.push_back({.name = "m/byteorder", .data = "little"});
  members.push_back({.name = "m/.data/serialization_id", .data = "17"});
  for (const bool zip64 : {false, true}) {
    const auto file = TensorFile::open(folder_.write("a.pth", zip_archive(members, zip64)));
    EXPECT_TRUE(file.load("x").equal(ramp({2, 2}))) << "zip64 " << zip64;
  }
}

TEST_F(HostileZip, DamagedArchivesAreRefused) {
  const auto good = archive(pickle(item({})));
  const std::string bytes = zip_archive(good);
  for (size_t size = 2; size < bytes.size(); ++size)
    refused(bytes.substr(0, size), size < 24 ? "" : "truncated");
  auto bad = good;
  bad[1].method = 8;
  refused(bad, "compressed");
  bad = good;
  bad[1].size_shift = 1000;
  refused(bad, "does not lie before");
  bad = good;
  bad[0].size_shift = 1;
  refused(bad, "overlaps");
  bad = good;
  bad[1].offset_shift = 1000;
  refused(bad, "beyond");
  bad = good;
  bad[1].offset_shift = 1;
  refused(bad, "no header");
  bad = good;
  bad[1].local_name = "m/data/1";
  refused(bad, "another name");
  bad = good;
  bad.push_back(good[1]);
  refused(bad, "occurs twice");
  bad = good;
  bad.push_back({.name = "m/byteorder", .data = "big"});
  refused(bad, "\"big\"");
  bad = good;
  bad.push_back({.name = "n/data.pkl", .data = "."});
  refused(bad, "data.pkl");
  refused(std::vector<ZipMember>{{.name = "readme", .data = "."}}, "data.pkl");
  bad = good;
  bad.push_back({.name = "m/constants.pkl", .data = "."});
  refused(bad, "TorchScript");
  refused(std::vector<ZipMember>{good[0]}, "lacks the storage");
}

TEST_F(HostileZip, ViewsOutsideTheirStorageAreRefused) {
  refused(View{.count = 5}, "too few");
  refused(View{.count = INT64_MAX}, "too few");
  refused(View{.count = -1}, "persistent id");
  refused(View{.offset = 1}, "outside its storage");
  refused(View{.offset = -1}, "rebuilt");
  refused(View{.size = {3, 2}}, "outside its storage");
  refused(View{.stride = {3, 1}}, "outside its storage");
  refused(View{.stride = {-2, 1}}, "integers >= 0");
  refused(View{.stride = {1}}, "1 strides");
  refused(View{.size = {INT64_MAX, INT64_MAX}}, "outside its storage");
  refused(View{.size = {int64_t{1} << 40, 2}, .stride = {0, 0}}, "more bytes than the whole file");
  refused(View{.size = {0, INT64_MAX, 8}, .stride = {1, 1, 1}}, "outside its storage");
  refused(View{.size = std::vector<int64_t>(17, 1), .stride = std::vector<int64_t>(17, 1)}, "17");
  refused(View{.key = "1"}, "lacks the storage");
  refused(View{.key = std::string(65, '0')}, "65 bytes");
  refused(View{.name = "\xff"}, "UTF-8");
  refused_pickle(pickle(item({}) + item({})), "occurs twice");
}

TEST_F(HostileZip, PicklesAreNeverExecuted) {
  refused_pickle(
      "\x80\x02"
      "cposix\nsystem\n" +
          text("touch pwned") + "\x85R.",
      "posix.system");
  refused_pickle(
      "\x80\x02"
      "c__builtin__\neval\n" +
          text("1") + "\x85R.",
      "__builtin__.eval");
  refused(View{.storage_class = "torch\nComplexFloatStorage\n"}, "torch.ComplexFloatStorage");
  refused(View{.storage_class = "collections\nOrderedDict\n"}, "no storage class");
  refused_pickle(
      "\x80\x02"
      "ctorch\nFloatStorage\n)R.",
      "calls torch.FloatStorage");
  refused_pickle("\x80\x02i__main__\nX\n.", "opcode 0x69");
  refused_pickle("\x80\x04}.", "protocol 4");
}

TEST_F(HostileZip, BrokenPicklesAreRefused) {
  const std::string good = pickle(item({}));
  for (size_t size = 0; size + 1 < good.size(); ++size)
    refused_pickle(good.substr(0, size), "");
  refused_pickle(".", "no single value");
  refused_pickle("N.", "None");
  refused_pickle("u.", "mark");
  refused_pickle("\x85.", "empty stack");
  refused_pickle("(\x85.", "empty stack");
  refused_pickle("h\5.", "recalls");
  refused_pickle("q\5.", "empty stack");
  refused_pickle("NNNs.", "sets items of None");
  refused_pickle("})Q.", "persistent id");
  refused_pickle("NQ.", "expected a tuple");
  refused_pickle("N)R.", "calls None");
  refused_pickle("X\xff\xff\xff\xff.", "truncated");
  refused_pickle(
      "\x8a\x09"
      "123456789.",
      "9 bytes");
  refused_pickle("cabc", "truncated");
  refused_pickle(pickle("K\1N"), "as a key");
  refused_pickle(pickle(text("x") + "N"), "None");
  refused_pickle("(" + item({}).substr(6), "");
}

TEST_F(HostileZip, DeepNestingNeedsNoStack) {
  refused_pickle(")" + std::string(4'000'000, '\x85') + ".", "a tuple");
  refused_pickle(std::string(std::size_t{9} << 20, 'N'), "more than");
}

}  // namespace
}  // namespace stuffed::io
