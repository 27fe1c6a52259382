#include <fstream>
#include <new>
#include <set>
#include <sys/resource.h>
#include <system_error>
#include <unistd.h>

#include <gtest/gtest.h>

#include "stuffed/core/background.h"
#include "stuffed/core/cuda_library.h"
#include "stuffed/core/dtype.h"
#include "stuffed/core/error.h"
#include "stuffed/core/hash.h"
#include "stuffed/core/memory.h"
#include "stuffed/core/rng.h"
#include "stuffed/core/version.h"

namespace stuffed {
namespace {

// As main() does: before any test asks LibTorch for GPUs.
[[maybe_unused]] const CudaLibrary* const kOpened = cuda_library();

TEST(Hash, MatchesThePublishedVectors) {  // FIPS 180-2, appendix B
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

TEST(Dtype, NamesAreReadAsTheyAreWritten) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16})
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
  EXPECT_EQ(dtype_name(at::kDouble), "f64");
  for (const char* name : {"f64", "float", ""})
    EXPECT_THROW(parse_dtype(name), Error) << name;
}

TEST(Rng, IsAFunctionOfSeedAndKey) {
  EXPECT_EQ(Rng(7, "len=8192").next(), Rng(7, "len=8192").next());
  std::set<uint64_t> firsts;
  for (uint64_t seed = 0; seed < 100; ++seed)
    for (const char* key : {"", "a", "b", "ab", "ba"})
      firsts.insert(Rng(seed, key).next());
  EXPECT_EQ(firsts.size(), 500u);
}

TEST(Rng, BelowIsUniform) {
  Rng rng(1, "uniform");
  std::array<int, 7> counts{};
  for (int i = 0; i < 70000; ++i)
    ++counts.at(rng.below(7));
  for (const int count : counts)
    EXPECT_NEAR(count, 10000, 500);  // 5 standard deviations
}

TEST(Error, CarriesItsExitCodeAndMessage) {
  try {
    check(1 == 2, Error::Kind::Input, "{}: has {}, expected {}", "file", 1, 2);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), 3);
    EXPECT_STREQ(error.what(), "file: has 1, expected 2");
  }
}

TEST(Memory, IsKnownToHaveRunOutByWhatTheLibrariesSay) {
  const auto says = [](const char* text) { return is_out_of_memory(std::runtime_error(text)); };
  EXPECT_TRUE(says("could not execute a primitive"));
  EXPECT_TRUE(says("could not create a primitive"));
  EXPECT_TRUE(says("could not create a memory object"));
  EXPECT_FALSE(says("could not create a primitive descriptor for a matmul primitive"));
  EXPECT_TRUE(says("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"));
  EXPECT_FALSE(says("index out of range"));
  EXPECT_TRUE(is_out_of_memory(std::bad_alloc()));
  EXPECT_TRUE(is_out_of_memory(std::system_error(EAGAIN, std::generic_category())));
  EXPECT_FALSE(is_out_of_memory(std::system_error(ENOENT, std::generic_category())));
  EXPECT_TRUE(is_out_of_memory(Error(Error::Kind::Memory, "a file")));
  EXPECT_FALSE(is_out_of_memory(Error(Error::Kind::Input, "could not execute a primitive")));
}

TEST(Memory, WhatIsFreeIsWithinTheMachineAndTheLimitOnAddresses) {
  const int64_t free = free_memory_bytes(c10::Device("cpu"));
  EXPECT_GT(free, 0);
  EXPECT_LE(free, ::sysconf(_SC_PHYS_PAGES) * ::sysconf(_SC_PAGESIZE));
  std::ifstream status("/proc/self/statm");
  int64_t pages = 0;
  status >> pages;
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_AS, &before), 0);
  rlimit limit = before;
  constexpr int64_t kLeft = int64_t{32} << 20;
  limit.rlim_cur = static_cast<rlim_t>(pages * ::sysconf(_SC_PAGESIZE) + kLeft);
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &limit), 0);
  const int64_t limited = free_memory_bytes(c10::Device("cpu"));
  ASSERT_EQ(::setrlimit(RLIMIT_AS, &before), 0);
  EXPECT_LE(limited, kLeft);
}

TEST(RunTimeLibrary, IsOpenedWithoutADriverIfLibTorchHasCuda) {
  if (!STUFFED_WITH_CUDA)
    GTEST_SKIP() << "the build has no CUDA kernels";
  std::string why_not;
  const auto program = std::filesystem::read_symlink("/proc/self/exe");
  const CudaLibrary* library =
      open_cuda_library(program.parent_path() / "libstuffed_cuda.so", why_not);
  ASSERT_NE(library, nullptr) << why_not;
  EXPECT_STREQ(library->compiler, build_info().cuda.c_str());
  EXPECT_TRUE(library->error_text(2).starts_with("cudaErrorMemoryAllocation: "));
  EXPECT_TRUE(library->is_out_of_memory(2));
}

TEST(RunTimeLibrary, SaysWhyItCannotBeOpened) {
  std::string why_not;
  EXPECT_EQ(open_cuda_library("/nowhere/libstuffed_cuda.so", why_not), nullptr);
  EXPECT_NE(why_not.find("there is no /nowhere/libstuffed_cuda.so"), why_not.npos) << why_not;
  EXPECT_EQ(open_cuda_library("/proc/self/status", why_not), nullptr);
  EXPECT_NE(why_not.find("cannot be opened"), why_not.npos) << why_not;
}

TEST(RunTimeLibrary, SaysWhyThereIsNone) {
  EXPECT_EQ(cuda_library() == nullptr, !why_no_cuda().empty());
  EXPECT_EQ(version_text().find("cpu cuda") == std::string::npos, cuda_library() == nullptr);
}

TEST(Background, GivesTheResultOrTheErrorOfItsWork) {
  Background<int> sum([] { return 40 + 2; });
  EXPECT_EQ(sum.get(), 42);
  Background<int> failing([]() -> int { fail(Error::Kind::Input, "no such file"); });
  EXPECT_THROW(failing.get(), Error);
}

TEST(Background, WorkThatIsNotWantedAnyMoreIsStopped) {
  bool is_stopped = false;
  {
    Background<int> endless([&]() -> int {
      try {
        for (;;)
          stop_if_interrupted();
      } catch (const Error& error) {
        is_stopped = error.kind() == Error::Kind::Interrupted;
        throw;
      }
    });
  }
  EXPECT_TRUE(is_stopped);
  EXPECT_NO_THROW(stop_if_interrupted());  // on this thread nothing has changed
}

TEST(Version, NamesCommitAndLibTorch) {
  EXPECT_NE(version_text().find(build_info().libtorch), std::string::npos);
  EXPECT_GE(build_info().commit.size(), 7u);
}

}  // namespace
}  // namespace stuffed
