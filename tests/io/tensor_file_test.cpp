#include "stuffed/io/tensor_file.h"

#include <cstring>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "stuffed/core/error.h"
#include "stuffed/io/json.h"
#include "tests/support/files.h"

namespace stuffed::io {
namespace {

using testing::expect_error;
using testing::TempFolder;

/// A safetensors file of this header and these data bytes.
std::string safetensors(const std::string& header, const std::string& data) {
  std::string text(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(text.data(), &size, 8);
  return text + header + data;
}

std::string one_tensor(const std::string& dtype,
                       const std::string& shape,
                       const std::string& offsets) {
  return fmt::format(R"({{"x":{{"dtype":"{}","shape":{},"data_offsets":{}}}}})", dtype, shape,
                     offsets);
}

std::vector<std::pair<std::string, Tensor>> every_type() {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto dtype : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt,
                           at::kShort, at::kChar, at::kByte, at::kBool})
    tensors.emplace_back(c10::toString(dtype),
                         at::arange(15).sub(dtype == at::kByte ? 0 : 7).to(dtype).view({3, 5}));
  tensors.emplace_back("scalar", at::scalar_tensor(2.5));
  tensors.emplace_back("empty", at::empty({0, 4}));
  tensors.emplace_back("transposed", at::arange(6, at::kFloat).view({2, 3}).t());
  return tensors;
}

TEST(Safetensors, ReadsBackWhatItWrote) {
  const TempFolder folder;
  const auto tensors = every_type();
  write_safetensors(folder / "a.safetensors", tensors, {{"format", "pt"}, {"über", "\"\n"}});
  const auto file = TensorFile::open(folder / "a.safetensors");
  EXPECT_EQ(file.entries().size(), tensors.size());
  EXPECT_EQ(file.metadata().at("über"), "\"\n");
  EXPECT_EQ(file.files(), std::vector{folder / "a.safetensors"});
  for (const auto& [name, tensor] : tensors) {
    ASSERT_TRUE(file.has(name));
    const Tensor loaded = file.load(name);
    EXPECT_EQ(loaded.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(loaded.equal(tensor)) << name;
    EXPECT_EQ(file.entries().at(name).shape, tensor.sizes().vec());
    EXPECT_TRUE(loaded.is_contiguous());
    file.release(name);
    EXPECT_TRUE(loaded.equal(tensor)) << name << ", after its pages were released";
  }
}

TEST(Safetensors, ViewsOutliveTheFileObject) {
  const TempFolder folder;
  write_safetensors(folder / "a.st", {{"x", at::arange(10)}});
  Tensor view;
  { view = TensorFile::open(folder / "a.st").load("x"); }
  std::filesystem::remove(folder / "a.st");
  EXPECT_TRUE(view.equal(at::arange(10)));
}

TEST(Safetensors, AlignedTensorsAreViewsOfTheMap) {
  const TempFolder folder;
  write_safetensors(folder / "a.st", {{"b", at::ones({3}, at::kByte)}, {"x", at::ones({4})}});
  const auto file = TensorFile::open(folder / "a.st");
  EXPECT_EQ(file.load("x").data_ptr(), file.load("x").data_ptr());
}

TEST(Safetensors, ReadsMisalignedTensors) {
  const TempFolder folder;
  const std::string header =
      R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  const float values[] = {1.5F, -2.0F};
  std::string data(9, '\7');
  std::memcpy(data.data() + 1, values, 8);
  const auto file = TensorFile::open(folder.write("a.safetensors", safetensors(header, data)));
  EXPECT_TRUE(file.load("x").equal(at::tensor({1.5F, -2.0F})));
  EXPECT_EQ(file.load("b").item<int>(), 7);
}

TEST(Safetensors, AnyNonZeroByteIsTrue) {
  const TempFolder folder;
  const auto file = TensorFile::open(folder.write(
      "a.safetensors", safetensors(one_tensor("BOOL", "[3]", "[0,3]"), {"\0\1\x80", 3})));
  EXPECT_TRUE(file.load("x").equal(at::tensor({0, 1, 1}).to(at::kBool)));
}

TEST(Safetensors, DamagedFilesAreRefusedByName) {
  const TempFolder folder;
  const std::string four(4, '\0');
  struct Case {
    std::string bytes;
    std::string message;
  };
  const std::string two =
      R"({{"x":{{"dtype":"F32","shape":[1],"data_offsets":[0,4]}},"y":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}}})";
  const std::vector<Case> cases = {
      {"", "empty"},
      {std::string("\x05\0\0", 3), "truncated"},
      {safetensors(one_tensor("F32", "[1]", "[0,4]"), four).substr(0, 20), "only 12 follow"},
      {std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10), "more than the 100000000"},
      {safetensors("{\"x\":", ""), "not JSON"},
      {safetensors("[]", ""), "not an object"},
      {safetensors(one_tensor("F32", "[2]", "[0,8]"), four), "truncated"},
      {safetensors(one_tensor("F32", "[1]", "[0,4]"), four + four), "4 bytes at the end"},
      {safetensors(one_tensor("F32", "[1]", "[4,0]"), four), "[begin, end)"},
      {safetensors(one_tensor("F32", "[1]", "[0]"), four), "[begin, end)"},
      {safetensors(one_tensor("F32", "[1]", "[0,1,2]"), four), "at most 2"},
      {safetensors(one_tensor("F32", "[1]", "[-4,0]"), four), "integers from 0"},
      {safetensors(one_tensor("F32", "[1]", "[0,1e3]"), four), "integers from 0"},
      {safetensors(one_tensor("F32", "[1]", "[0,18446744073709551615]"), four), "integers from 0"},
      {safetensors(one_tensor("F32", "[1]", "[0,9223372036854775807]"), four), "truncated"},
      {safetensors(one_tensor("F32", "[2]", "[0,4]"), four), "does not fit its 4 bytes"},
      {safetensors(one_tensor("F32", "[4611686018427387904,4]", "[0,4]"), four), "does not fit"},
      {safetensors(one_tensor("F32", "[4294967296,4294967296]", "[0,0]"), ""), "does not fit"},
      {safetensors(one_tensor("F32", "[0,4611686018427387904,4611686018427387904]", "[0,0]"), ""),
       "does not fit"},
      {safetensors(one_tensor("F32", "[" + std::string(99, '1').replace(1, 1, ",") + "]", "[0,4]"),
                   four),
       "x"},
      {safetensors(one_tensor("F7_E3", "[1]", "[0,4]"), four), "F7_E3"},
      {safetensors(R"({"x":{"dtype":"F32","shape":[1]}})", four), "data_offsets"},
      {safetensors(R"({"x":17})", four), "data_offsets"},
      {safetensors(R"({"__metadata__":{"a":1}})", ""), "__metadata__"},
      {safetensors(fmt::format(fmt::runtime(two), 2, 6), four + "ab"), "overlap"},
      {safetensors(fmt::format(fmt::runtime(two), 0, 4), four), "overlap"},
      {safetensors(fmt::format(fmt::runtime(two), 5, 9), four + "abcde"), "belong to no tensor"},
      {safetensors(
           R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
           four),
       "\"x\" occurs twice"},
  };
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(fmt::format("case {}: {}", i, cases[i].message));
    expect_error(Error::Kind::Input, {"bad.safetensors", cases[i].message},
                 [&] { TensorFile::open(folder.write("bad.safetensors", cases[i].bytes)); });
  }
}

TEST(TensorFile, SaysWhatAForeignFileIs) {
  const TempFolder folder;
  expect_error(Error::Kind::Input, {"none.pth", "No such file"},
               [&] { TensorFile::open(folder / "none.pth"); });
  expect_error(Error::Kind::Input, {"folder"}, [&] { TensorFile::open(folder.path()); });
  expect_error(Error::Kind::Input, {"old.pth", "legacy"}, [&] {
    TensorFile::open(folder.write("old.pth",
                                  "\x80\x02\x8a\nl\xfc\x9c"
                                  "F\xf9 j\xa8P\x19."));
  });
  for (const char* name : {"a.bin", "a.safetensors"})
    expect_error(Error::Kind::Input, {name, "git-lfs"}, [&] {
      TensorFile::open(folder.write(name, "version https://git-lfs.github.com/spec/v1\n"));
    });
  expect_error(Error::Kind::Input, {"a.txt", "neither"},
               [&] { TensorFile::open(folder.write("a.txt", "hello, weights")); });
}

TEST(TensorFile, ANameItDoesNotHoldIsAnInputError) {
  const TempFolder folder;
  write_safetensors(folder / "a.st", {{"x", at::ones({1})}});
  expect_error(Error::Kind::Input, {"a.st", "\"y\""},
               [&] { TensorFile::open(folder / "a.st").load("y"); });
}

class Shards : public ::testing::Test {
 protected:
  Shards() {
    write_safetensors(folder_ / "s1.safetensors", {{"a", at::ones({2})}}, {{"format", "pt"}});
    write_safetensors(folder_ / "s2.safetensors", {{"b", at::zeros({3})}, {"c", at::ones({1})}});
  }

  std::filesystem::path index(const std::string& weight_map) {
    return folder_.write("model.safetensors.index.json",
                         R"({"metadata":{"total_size":24},"weight_map":)" + weight_map + "}");
  }

  TempFolder folder_;
};

TEST_F(Shards, AreReadAsOneFile) {
  const auto file = TensorFile::open(
      index(R"({"a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors"})"));
  EXPECT_EQ(file.entries().size(), 3u);
  EXPECT_TRUE(file.load("a").equal(at::ones({2})));
  EXPECT_TRUE(file.load("b").equal(at::zeros({3})));
  EXPECT_EQ(file.entries().at("b").file.filename(), "s2.safetensors");
  EXPECT_EQ(file.files().size(), 3u);
  EXPECT_NE(file.entries().at("a").storage, file.entries().at("b").storage);
}

TEST_F(Shards, AnIndexThatContradictsThemIsRefused) {
  const std::string name = "model.safetensors.index.json";
  const auto refused = [&](const std::string& weight_map, const std::string& message) {
    expect_error(Error::Kind::Input, {name, message}, [&] { TensorFile::open(index(weight_map)); });
  };
  refused(R"({"a":"s1.safetensors","b":"s3.safetensors"})", "\"s3.safetensors\"");
  refused(R"({"a":"s1.safetensors","d":"s1.safetensors"})", "no shard");
  refused(R"({"a":"s2.safetensors","b":"s2.safetensors","c":"s1.safetensors"})", "it is in");
  refused(R"({"a":"s1.safetensors","b":"s2.safetensors"})", "which the index lacks");
  refused(R"({"a":"../s1.safetensors"})", "beside the index");
  refused(R"({"a":"/etc/passwd"})", "beside the index");
  refused(R"({"a":".."})", "beside the index");
  refused(R"({"a":1})", "not a file name");
  refused(R"({"a":")" + std::string(5000, 'x') + "\"}", "File name too long");
  refused("{}", "empty");
  refused("[]", "weight_map");
  refused(R"({"a":"model.safetensors.index.json"})", "itself an index");
  expect_error(Error::Kind::Input, {name, "not JSON"},
               [&] { TensorFile::open(folder_.write(name, "{\"weight_map\"")); });
  write_safetensors(folder_ / "s3.safetensors", {{"a", at::ones({2})}});
  expect_error(Error::Kind::Input, {"s3.safetensors", "\"a\"", "s1.safetensors"},
               [&] { TensorFile::open(index(R"({"a":"s1.safetensors","z":"s3.safetensors"})")); });
}

TEST(FindWeights, FollowsTheDocumentedOrder) {
  const TempFolder folder;
  const auto found = [&] { return find_weights(folder.path()).filename().string(); };
  folder.write("golden.safetensors", "");
  expect_error(Error::Kind::Input,
               {folder.path().string(), "model.safetensors", "pytorch_model.bin"}, found);
  folder.write("model.pth", "");
  EXPECT_EQ(found(), "model.pth");
  folder.write("model.st", "");
  expect_error(Error::Kind::Input, {"model.pth", "model.st"}, found);
  for (const char* name :
       {"consolidated.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin",
        "model.safetensors.index.json", "model.safetensors"}) {
    folder.write(name, "");
    EXPECT_EQ(found(), name);
  }
  EXPECT_EQ(find_weights(folder / "golden.safetensors"), folder / "golden.safetensors");
  expect_error(Error::Kind::Input, {"absent"}, [&] { find_weights(folder / "absent"); });
}

TEST(WriteSafetensors, FailsCleanlyWhereItCannotWrite) {
  const TempFolder folder;
  expect_error(Error::Kind::Output, {"no/such/a.st", "No such file"}, [&] {
    write_safetensors(folder / "no/such/a.st", {{"x", at::ones({1})}});
  });
  expect_error(Error::Kind::Output, {"/proc/a.st"}, [&] {
    write_safetensors("/proc/a.st", {{"x", at::ones({1})}});
  });
  std::filesystem::create_directory(folder / "taken.st");
  expect_error(Error::Kind::Output, {"taken.st"}, [&] {
    write_safetensors(folder / "taken.st", {{"x", at::ones({1})}});
  });
  size_t left = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path()))
    ++left;
  EXPECT_EQ(left, 1u) << "only the folder named taken.st";
}

TEST(WriteSafetensors, ReplacesAFileWholeOrNotAtAll) {
  const TempFolder folder;
  write_safetensors(folder / "a.st", {{"x", at::ones({1})}});
  const std::string before = testing::read_bytes(folder / "a.st");
  expect_error(Error::Kind::Internal, {"\"x\""}, [&] {
    write_safetensors(folder / "a.st", {{"x", at::ones({1})}, {"x", at::ones({1})}});
  });
  expect_error(Error::Kind::Internal, {"UTF-8"}, [&] {
    write_safetensors(folder / "a.st", {{"\xff", at::ones({1})}});
  });
  EXPECT_EQ(testing::read_bytes(folder / "a.st"), before);
  write_safetensors(folder / "a.st", {});
  EXPECT_TRUE(TensorFile::open(folder / "a.st").entries().empty());
}

}  // namespace
}  // namespace stuffed::io
