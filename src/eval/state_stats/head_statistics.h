// Statistics of matrices and vectors, reduced on their device in f64.
#pragma once
#include <array>
#include <string>
#include <vector>

#include "stuffed/core/tensor.h"

namespace stuffed::eval {

inline constexpr std::array kStateStatistics = {"mean",    "variance", "rms", "max",
                                                "max_abs", "median",   "norm"};

/// Over the K*V elements of each head of a state [H,K,V]: f64 [H] for every name of
/// kStateStatistics, in that order. The variance is unbiased, the median the lower middle element,
/// the norm Frobenius'. A NaN among the elements makes all of them NaN. Does not wait for the GPU.
std::vector<Tensor> state_statistics(const Tensor& state);

/// exp of the entropy of the normalised singular values of each [K,V] matrix: f64 [H], from 1 to
/// min(K,V); 1 for a vector, NaN for a matrix that is zero or not finite. The singular values are
/// roots of the Gram matrix's eigenvalues: those below 1e-8 of the largest are noise, as they are
/// in an f32 state anyway. May wait for the GPU.
/// Source  Roy and Vetterli, "The effective rank", EUSIPCO 2007
Tensor effective_rank(const Tensor& state);

/// Running sums over tokens of the mean and variance over channels, for each head by itself and
/// for the layer's channels together. Heads that share one vector (Mamba-2's B and C) count once.
class ChannelMoments {
 public:
  /// x [1,T,H,N], any type and strides. Does not wait for the GPU.
  void add(const Tensor& x);

  /// Averages over the tokens added so far. NaN variances where there is a single channel.
  struct Result {
    Tensor mean, variance;              // [H] f64
    Tensor layer_mean, layer_variance;  // [] f64
  };
  Result result() const;

  /// The sums as one tensor [6,H|1] f64 (counts as numbers, each in all columns), and back.
  Tensor pack() const;
  static ChannelMoments unpack(const Tensor& packed, at::Device device);

 private:
  Tensor mean_, variance_;  // [H|1], sums over tokens; the variance divided by N
  Tensor between_;          // [], likewise of the variance of the heads' means, divided by H
  int64_t tokens_ = 0, heads_ = 0, channels_ = 0;
};

/// Counts of elements of the same heads at several positions over their common range.
struct Histograms {
  Tensor counts;  // [P,L,H,bins] int64
  Tensor edges;   // [L,H,bins+1] f64
};

/// states [P,L,H,K,V] on the CPU. Bin i holds edges[i] <= x < edges[i+1], the last one its upper
/// edge too; elements that are not finite are in none. A range of no width is widened by 0.5 on
/// both sides.
Histograms joint_histograms(const Tensor& states, int64_t bins);

}  // namespace stuffed::eval
