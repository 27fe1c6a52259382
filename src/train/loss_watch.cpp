#include "src/train/loss_watch.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>

namespace stuffed::train {

namespace {

constexpr double kRate = 0.02;  // of a trend over some hundred steps
constexpr double kFirstSteps = 20;

}  // namespace

LossWatch::LossWatch(int64_t steps_between_looks, at::Device device)
    : recent_(at::full(
          {steps_between_looks}, -1.0, at::TensorOptions().device(device).dtype(at::kDouble))),
      trend_(at::zeros({3}, at::TensorOptions(at::kDouble))) {}

void LossWatch::note(int64_t taken, const Tensor& loss) {
  recent_.select(0, (taken - 1) % recent_.size(0)).copy_(loss);
}

/// Whether the loss is a spike; one changes the trend no more than its border would.
bool LossWatch::learn(double loss) {
  double* const trend = trend_.data_ptr<double>();
  const double mean = trend[0], deviation = std::sqrt(trend[1]);
  const double border = std::max(mean + 6 * deviation, 1.1 * mean);
  const bool is_spike = trend[2] >= kFirstSteps && !(loss <= border);
  const double believed = is_spike ? border : loss;
  if (!std::isfinite(believed))
    return is_spike;
  trend[2] += 1;
  const double rate = std::max(kRate, 1 / trend[2]);
  const double change = believed - mean;
  trend[0] = mean + rate * change;
  trend[1] = (1 - rate) * (trend[1] + rate * change * change);
  return is_spike;
}

std::vector<Spike> LossWatch::look(int64_t taken) {
  const int64_t count = (taken - 1) % recent_.size(0) + 1;
  const Tensor losses = recent_.to(at::kCPU);
  std::vector<Spike> spikes;
  for (int64_t i = 0; i < count; ++i) {
    const double loss = losses.const_data_ptr<double>()[i];
    const double expected = trend_.const_data_ptr<double>()[0];
    if (loss != -1 && learn(loss))
      spikes.push_back({taken - count + 1 + i, loss, expected});
  }
  recent_.fill_(-1);
  return spikes;
}

}  // namespace stuffed::train
