#include "stuffed/check/bench.h"

#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "src/check/bench/bench_gate.h"
#include "src/check/bench/bench_record.h"
#include "src/check/bench/bench_timer.h"
#include "src/check/bench/work_model.h"
#include "stuffed/core/error.h"
#include "stuffed/models/registry.h"
#include "stuffed/models/shapes.h"
#include "tests/support/scan_variants.h"

namespace stuffed::eval {
namespace {

TEST(WorkModel, MovesTheBytesThatTheStreamsHold) {
  const auto bytes = [](const char* family, int64_t heads, int64_t K, int64_t V) {
    return scan_work(find_family(family).terms, {.heads = heads, .key_width = K, .value_width = V},
                     at::kBFloat16)
        .bytes;
  };
  EXPECT_EQ(bytes("mamba2", 64, 128, 64), 17'024);
  EXPECT_EQ(bytes("mamba2", 80, 128, 64), 21'152);
  EXPECT_EQ(bytes("rwkv5", 64, 64, 64), 32'768);
  EXPECT_EQ(bytes("rwkv6", 32, 64, 64), 20'480);
  EXPECT_EQ(bytes("rwkv6", 64, 64, 64), 40'960);
  EXPECT_EQ(bytes("hgrn2", 16, 128, 128), 16'384);
  EXPECT_EQ(bytes("mamba1", 4096, 16, 1), 2 * (2 * 16 + 3 * 4096));  // B, C; x, dt, y
  EXPECT_EQ(bytes("rwkv7", 32, 64, 64), 2 * 32 * 7 * 64);  // r, k, v, decay, erasure's two, y
}

TEST(WorkModel, MultipliesInBlocksOfSixtyFour) {
  const auto megaflops = [](const char* family, int64_t heads, int64_t K, int64_t V) {
    return scan_work(find_family(family).terms, {.heads = heads, .key_width = K, .value_width = V},
                     at::kBFloat16)
               .flops /
           1e6;
  };
  EXPECT_NEAR(megaflops("mamba2", 64, 128, 64), 2.64, 0.005);
  EXPECT_NEAR(megaflops("rwkv6", 32, 64, 64), 1.05, 0.005);
  EXPECT_NEAR(megaflops("rwkv6", 64, 64, 64), 2.10, 0.005);
  EXPECT_NEAR(megaflops("hgrn2", 16, 128, 128), 1.57, 0.005);
  EXPECT_NEAR(megaflops("rwkv7", 32, 64, 64), 2.88, 0.005);
  EXPECT_EQ(megaflops("mamba1", 4096, 16, 1), 0);
}

TEST(WorkModel, TheSlowerOfBytesAndFlopsIsTheFloor) {
  const Ceilings ceilings{.copy_bytes_per_s = 100, .matmul_flops_per_s = 1000};
  EXPECT_EQ(floor_seconds(200, 1000, ceilings), 2);
  EXPECT_EQ(floor_seconds(200, 5000, ceilings), 5);
}

TEST(WorkModel, MoreThanTheMachineAllowsMeansThatItsCeilingsWereMismeasured) {
  const Ceilings ceilings{.copy_bytes_per_s = 100, .matmul_flops_per_s = 1000};
  const auto mismeasured = [&](double seconds) {
    return work_fields(200, 1000, 1, seconds, ceilings).value("ceilings_mismeasured", io::json());
  };
  EXPECT_EQ(mismeasured(2), false);     // at its floor
  EXPECT_EQ(mismeasured(1.95), false);  // 103 %
  EXPECT_EQ(mismeasured(1.89), true);   // 106 %
  EXPECT_FALSE(work_fields(200, 1000, 1, 1, {}).contains("ceilings_mismeasured"));
}

TEST(Timing, QuantilesLieBetweenNeighbours) {
  const Timing timing{.seconds = {1, 2, 3, 4, 10}};
  EXPECT_EQ(timing.median(), 3);
  EXPECT_DOUBLE_EQ(timing.quantile(0.1), 1.4);
  EXPECT_DOUBLE_EQ(timing.quantile(0.9), 7.6);
}

TEST(Timing, EveryRunIsCountedAndOnlyRepeatsAreTimed) {
  int runs = 0, prepared = 0;
  const TimingOptions how{.warmup = 2, .repeats = 5, .prepare = [&] { ++prepared; }};
  const Timing timing = time_runs(at::kCPU, how, [&] { ++runs; });
  EXPECT_EQ(runs, 7);
  EXPECT_EQ(prepared, 7);
  EXPECT_EQ(timing.seconds.size(), 5u);
  EXPECT_TRUE(std::ranges::is_sorted(timing.seconds));
}

/// A gate shown a call of the chunked form, changed by `change`.
bool gate_passes(const scan_cases::Variant& variant,
                 at::ScalarType type,
                 const std::function<void(ScanResult&)>& change) {
  const scan_cases::Problem p =
      scan_cases::make_problem({.variant = variant, .B = 2, .T = 70, .H = 3, .type = type});
  ScanResult out = ops::decay_scan(p.in, p.state, Impl::Chunked);
  change(out);
  ScanGate gate;
  gate.look_at(p.in, p.state, out);
  return gate.is_right();
}

TEST(ScanGate, LetsRightResultsPassAndNoOthers) {
  for (const scan_cases::Variant& variant : scan_cases::variants())
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      EXPECT_TRUE(gate_passes(variant, type, [](ScanResult&) {}));
      EXPECT_FALSE(gate_passes(variant, type, [](ScanResult& out) { out.y = out.y * 1.01; }));
      EXPECT_FALSE(
          gate_passes(variant, type, [](ScanResult& out) { out.state = out.state * 1.01; }));
      EXPECT_FALSE(gate_passes(variant, type, [](ScanResult& out) { out.y[1][69][2][0] = NAN; }));
    }
}

TEST(ScanGate, PassesNothingThatItHasNotSeen) {
  EXPECT_FALSE(ScanGate().is_right());
}

TEST(InF32, AModelComputesInF32AndIsItselfAgain) {
  const Tensor tokens = at::arange(8, at::kLong).unsqueeze(0);
  for (const std::string& family : family_names()) {
    const std::string shape = family + "-tiny";
    const auto model = random_model(shape, 3, {.dtype = at::kBFloat16, .inference = false});
    const auto hidden = [&] {
      State state = model->initial_state(1);
      return model->forward(tokens, state).hidden;
    };
    const Tensor before = hidden();
    {
      const InF32 wide(*model);
      EXPECT_EQ(hidden().scalar_type(), at::kFloat) << shape;
      const double error = kernels::relative_rms(before, hidden());
      EXPECT_GT(error, 1e-4) << shape;
      EXPECT_LT(error, 5e-2) << shape;
    }
    EXPECT_TRUE(testing::bitwise_equal(hidden(), before)) << shape;
  }
}

TEST(BenchScan, AnUnknownFamilyIsAUsageError) {
  try {
    bench_scan({{.family = "lstm"}}, {.ceilings = false}, [](const BenchRecord&) {});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Usage);
  }
}

}  // namespace
}  // namespace stuffed::eval
