// The one way to the processor's widest vectors: a function compiled once for each level of the
// instruction set, in one object file, and picked when it is called. (Files compiled once per level
// need a build rule each, and what they inline from headers is linked at whatever level comes first;
// the compiler's own clones cannot be called one by one by tests.) And the exponentials such loops
// share.
#pragma once
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

// Levels, not processors' names: "arch=haswell" is true of Intel's only, and leaves AMD's with loops
// that are not vectorised at all.
#if defined(__x86_64__) && defined(__clang__)
#define STUFFED_LEVEL(level) __attribute__((target("arch=" level)))
#elif defined(__x86_64__)
#define STUFFED_LEVEL(level) __attribute__((target("arch=" level), optimize("O3")))
#endif
#ifdef __clang__
#define STUFFED_PLAIN  // has no attribute for it, and optimises as the file is compiled
#else
#define STUFFED_PLAIN __attribute__((optimize("O3")))
#endif
#define STUFFED_INLINE inline __attribute__((always_inline))

namespace stuffed::kernels {

/// `Lanes` numbers of 32 bits at any address.
template <class T, int Lanes>
using Vec [[gnu::vector_size(Lanes * sizeof(T)), gnu::aligned(sizeof(T))]] = T;

/// How many of the levels x86-64-v4, -v3 and the plain one, in this order, the processor lacks.
inline size_t levels_lacking() {
#if defined(__x86_64__) && defined(__clang__)  // whose builtin knows no levels before clang 18
  const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                  __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
  const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? 0 : v3 ? 1 : 2;
#elif defined(__x86_64__)
  return __builtin_cpu_supports("x86-64-v4") ? 0 : __builtin_cpu_supports("x86-64-v3") ? 1 : 2;
#else
  return 2;
#endif
}

/// One function for all levels. The bodies are STUFFED_INLINE functions of one type, compiled for
/// their level: one body thrice, or one each where the width of vectors is written out.
template <auto V4, auto V3 = V4, auto Plain = V3>
class Levels;

template <class R, class... A, R (*V4)(A...), R (*V3)(A...), R (*Plain)(A...)>
class Levels<V4, V3, Plain> {
 public:
  using Function = R (*)(A...);

  /// Those this processor can run, the fastest first; at least one.
  static std::span<const Function> usable() {
#if defined(__x86_64__)
    static constexpr Function kAll[] = {at_v4, at_v3, at_plain};
    return std::span(kAll).subspan(levels_lacking());
#else
    static constexpr Function kAll[] = {at_plain};
    return kAll;
#endif
  }

  R operator()(A... arguments) const {
    static const Function fastest = usable().front();
    return fastest(arguments...);
  }

 private:
#if defined(__x86_64__)
  STUFFED_LEVEL("x86-64-v4") static R at_v4(A... arguments) {
    return V4(arguments...);
  }
  STUFFED_LEVEL("x86-64-v3") static R at_v3(A... arguments) {
    return V3(arguments...);
  }
#endif
  STUFFED_PLAIN static R at_plain(A... arguments) {
    return Plain(arguments...);
  }
};

/// The fastest of them: wide<body>(arguments...).
template <auto V4, auto V3 = V4, auto Plain = V3>
inline constexpr Levels<V4, V3, Plain> wide{};

/// exp to 2 units in the last place; saturates outside [-87, 88]. Free of branches and calls, so
/// that loops vectorise.
STUFFED_INLINE float exp_inline(float x) {
  x = x < -87.0F ? -87.0F : x;
  x = x > 88.0F ? 88.0F : x;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves no fraction
  const float shifted = x * 1.44269504F + kRound;
  const float n = shifted - kRound;
  const float f = (x - n * 0.693359375F) + n * 2.12194440e-4F;  // ln 2 in two parts
  float p = 1.9875691500e-4F;  // Cephes' expf, for |f| <= ln(2) / 2
  p = p * f + 1.3981999507e-3F;
  p = p * f + 8.3334519073e-3F;
  p = p * f + 4.1665795894e-2F;
  p = p * f + 1.6666665459e-1F;
  p = p * f + 5.0000001201e-1F;
  p = p * f * f + f + 1.0F;
  // n as an integer, out of shifted's last bits: a cast of NaN would be undefined.
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound) + 127;
  return p * std::bit_cast<float>(exponent << 23);
}

/// exp(x) as `keep + change`, in the form a state S takes it: keep S + change S. In f32 the factor
/// exp(x) near 1 is off by up to 3e-8 the same way at every use, which a long stream adds up; and
/// 1 + (exp(x) - 1) has no digits of a strong decay, which a large state would show.
struct StateDecay {
  float keep;    // 1 for weak decays, 0 for strong ones
  float change;  // exp(x) - keep, to a small relative error
};

/// For x <= 0; exactly {0, 0} below -87.
STUFFED_INLINE StateDecay state_decay_inline(float x) {
  float series = 1.0F / 40320;  // Taylor's, for |x| <= 1/2: the next term is below 2^-26 of x
  series = series * x + 1.0F / 5040;
  series = series * x + 1.0F / 720;
  series = series * x + 1.0F / 120;
  series = series * x + 1.0F / 24;
  series = series * x + 1.0F / 6;
  series = series * x + 0.5F;
  series = series * x * x + x;
  const float whole = x < -87.0F ? 0.0F : exp_inline(x);
  return {x > -0.5F ? 1.0F : 0.0F, x > -0.5F ? series : whole};
}

}  // namespace stuffed::kernels
