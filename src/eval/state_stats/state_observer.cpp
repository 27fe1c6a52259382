#include "state_observer.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "src/eval/decay_sums.h"
#include "stuffed/core/error.h"

namespace stuffed::eval {

StateObserver::StateObserver(const RecurrentLM& model,
                             const StateStatsOptions& options,
                             std::vector<int64_t> layers,
                             std::vector<int64_t> heads)
    : slots_(static_cast<size_t>(model.config().layers), -1),
      stride_(options.stride),
      bins_(options.histogram_bins),
      rank_(options.rank),
      histogram_at_(options.histogram_at),
      device_(model.device()),
      layers_(layers.size()) {
  for (size_t slot = 0; slot < layers.size(); ++slot)
    slots_.at(static_cast<size_t>(layers[slot])) = static_cast<int64_t>(slot);
  if (static_cast<int64_t>(heads.size()) < model.config().heads)
    heads_ = at::tensor(heads).to(model.device());  // once: a copy waits for the GPU
}

Tensor StateObserver::chosen(const Tensor& per_head) const {
  return heads_.defined() ? per_head.index_select(0, heads_) : per_head;
}

void StateObserver::on_update(Where where, const ScanInputs& in, const LayerState& after) {
  const int64_t T = in.q.size(1), slot = slots_.at(static_cast<size_t>(where.layer));
  if (slot < 0 || T == 0)
    return;
  check(in.q.size(0) == 1 && where.position / stride_ == (where.position + T - 1) / stride_,
        Error::Kind::Internal, "state-stats: an update of {} x {} tokens from {} crosses {}",
        in.q.size(0), T, where.position, stride_);
  LayerSums& sums = layers_[static_cast<size_t>(slot)];
  const auto add = [](Tensor& sum, const Tensor& more) { sum = sum.defined() ? sum + more : more; };
  add(sums.decay, log_decay_sum(in));
  add(sums.alpha, alpha_sum(in));
  sums.inputs["q"].add(in.q);
  sums.inputs["k"].add(in.k);
  sums.inputs["v"].add(in.v);
  if (in.v_scale)
    sums.inputs["dt"].add(in.v_scale->unsqueeze(-1));
  if (in.erase) {
    sums.inputs["erase_read"].add(in.erase->read);
    sums.inputs["erase_write"].add(in.erase->write);
  }
  if ((where.position + T) % stride_ == 0)
    sample(sums, after.recurrent);
}

void StateObserver::sample(LayerSums& sums, const Tensor& state) const {
  sums.state = chosen(state.select(0, 0));
  const std::vector<Tensor> statistics = state_statistics(sums.state);
  for (size_t i = 0; i < statistics.size(); ++i)
    sums.head_rows.emplace_back(std::string("state.") + kStateStatistics.at(i), statistics[i]);

  Tensor& total = sums.decay_from_start;
  total = total.defined() ? total + sums.decay : sums.decay;
  sums.head_rows.emplace_back("log_decay.mean",
                              chosen(sums.decay.mean(1)) / static_cast<double>(stride_));
  sums.head_rows.emplace_back("log_decay.cumulative", chosen(total.mean(1)));
  sums.head_rows.emplace_back("log_decay.cumulative_slowest", chosen(total.amax(1)));
  sums.head_rows.emplace_back("alpha.mean",
                              chosen(sums.alpha.mean(1)) / static_cast<double>(stride_));
  sums.decay = Tensor();
  sums.alpha = Tensor();

  for (const auto& [name, moments] : sums.inputs) {
    const ChannelMoments::Result result = moments.result();
    sums.head_rows.emplace_back(name + ".mean", chosen(result.mean));
    sums.head_rows.emplace_back(name + ".variance", chosen(result.variance));
    sums.layer_rows.emplace_back(name + ".layer_mean", result.layer_mean);
    sums.layer_rows.emplace_back(name + ".layer_variance", result.layer_variance);
  }
  sums.inputs.clear();
}

void StateObserver::end_sample(int64_t position) {
  constexpr int64_t kPendingBytes = int64_t{64} << 20;
  std::vector<Tensor> per_head, per_layer, states;
  head_names_.clear();
  layer_names_.clear();
  for (LayerSums& sums : layers_) {
    check(sums.state.defined(), Error::Kind::Internal, "state-stats: no state was seen at {}",
          position);
    if (rank_)
      sums.head_rows.emplace_back("state.rank", effective_rank(sums.state));
    std::vector<Tensor> head_rows, layer_rows;
    for (const auto& [name, row] : sums.head_rows)
      head_rows.push_back(row);
    for (const auto& [name, row] : sums.layer_rows)
      layer_rows.push_back(row);
    if (head_names_.empty()) {
      for (const auto& [name, row] : sums.head_rows)
        head_names_.push_back(name);
      for (const auto& [name, row] : sums.layer_rows)
        layer_names_.push_back(name);
    }
    per_head.push_back(at::stack(head_rows));
    per_layer.push_back(at::stack(layer_rows));
    states.push_back(sums.state);
    sums.state = Tensor();
    sums.head_rows.clear();
    sums.layer_rows.clear();
  }
  if (std::find(histogram_at_.begin(), histogram_at_.end(), position) != histogram_at_.end())
    histogram_states_.push_back(at::stack(states).to(at::kCPU, at::kFloat));
  head_pending_.push_back(at::stack(per_head));
  layer_pending_.push_back(at::stack(per_layer));
  if (static_cast<int64_t>(head_pending_.size() * head_pending_[0].nbytes()) > kPendingBytes)
    to_host();
}

void StateObserver::to_host() {
  if (head_pending_.empty())
    return;
  head_done_.push_back(at::stack(head_pending_).to(at::kCPU));
  layer_done_.push_back(at::stack(layer_pending_).to(at::kCPU));
  head_pending_.clear();
  layer_pending_.clear();
}

NamedTensors StateObserver::take() {
  to_host();
  NamedTensors arrays;
  const auto split = [&](std::vector<Tensor>& done, const std::vector<std::string>& names) {
    const Tensor all = done.empty() ? Tensor() : at::cat(done);
    for (size_t row = 0; row < names.size() && all.defined(); ++row)
      arrays.emplace_back(names[row], all.select(2, static_cast<int64_t>(row)).contiguous());
    done.clear();
  };
  split(head_done_, head_names_);
  split(layer_done_, layer_names_);
  if (!histogram_states_.empty()) {
    const Histograms histograms = joint_histograms(at::stack(histogram_states_), bins_);
    arrays.emplace_back("histogram.counts", histograms.counts);
    arrays.emplace_back("histogram.edges", histograms.edges);
    histogram_states_.clear();
  }
  for (LayerSums& sums : layers_)  // tokens behind the last sample belong to no sample
    sums = {};
  return arrays;
}

namespace {

std::string slot_name(size_t slot, std::string_view what) {
  return fmt::format("observed.{}.{}", slot, what);
}

/// Many tensors of one shape as one; none if there are none.
void put_list(Snapshot& snapshot,
              const std::string& name,
              const std::vector<Tensor>& list,
              Tensor (*join)(at::TensorList)) {
  if (!list.empty())
    snapshot.tensors[name] = join(list);
}

Tensor cat(at::TensorList list) {
  return at::cat(list);
}

Tensor stack(at::TensorList list) {
  return at::stack(list);
}

}  // namespace

void StateObserver::save(Snapshot& snapshot) const {
  for (size_t slot = 0; slot < layers_.size(); ++slot) {
    const LayerSums& sums = layers_[slot];
    const auto put = [&](const char* what, const Tensor& tensor) {
      if (tensor.defined())
        snapshot.tensors[slot_name(slot, what)] = tensor;
    };
    put("decay", sums.decay);
    put("alpha", sums.alpha);
    put("decay_from_start", sums.decay_from_start);
    for (const auto& [name, moments] : sums.inputs)
      snapshot.tensors[slot_name(slot, "inputs." + name)] = moments.pack();
  }
  snapshot.fields["head_names"] = head_names_;
  snapshot.fields["layer_names"] = layer_names_;
  put_list(snapshot, "observed.head_done", head_done_, cat);
  put_list(snapshot, "observed.layer_done", layer_done_, cat);
  put_list(snapshot, "observed.head_pending", head_pending_, stack);
  put_list(snapshot, "observed.layer_pending", layer_pending_, stack);
  put_list(snapshot, "observed.histogram_states", histogram_states_, stack);
}

void StateObserver::load(const Snapshot& snapshot) {
  head_names_ = snapshot.strings("head_names");
  layer_names_ = snapshot.strings("layer_names");
  const auto list = [&](const char* name, int64_t axes) -> std::vector<Tensor> {
    if (!snapshot.tensors.contains(name))
      return {};
    return {snapshot.at(name, at::kDouble, axes).clone()};
  };
  // Where they wait makes no difference, once they are on the host.
  head_done_ = list("observed.head_done", 4);
  layer_done_ = list("observed.layer_done", 3);
  for (Tensor& pending : list("observed.head_pending", 4))
    head_done_.push_back(pending);
  for (Tensor& pending : list("observed.layer_pending", 3))
    layer_done_.push_back(pending);
  const auto rows = [](const std::vector<std::string>& names) {
    return static_cast<int64_t>(names.size());
  };
  for (const Tensor& done : head_done_)
    snapshot.check_that(done.size(2) == rows(head_names_));
  for (const Tensor& done : layer_done_)
    snapshot.check_that(done.size(2) == rows(layer_names_));
  if (snapshot.tensors.contains("observed.histogram_states"))
    for (const Tensor& states :
         snapshot.at("observed.histogram_states", at::kFloat, 5).clone().unbind())
      histogram_states_.push_back(states);
  for (size_t slot = 0; slot < layers_.size(); ++slot)
    load_layer(snapshot, slot);
}

void StateObserver::load_layer(const Snapshot& snapshot, size_t slot) {
  LayerSums& sums = layers_[slot];
  const auto take = [&](const char* what) {
    const std::string name = slot_name(slot, what);
    return snapshot.tensors.contains(name)
               ? snapshot.at(name, at::kDouble, 2).to(device_, at::kDouble, false, /*copy=*/true)
               : Tensor();
  };
  sums = {};
  sums.decay = take("decay");
  sums.alpha = take("alpha");
  sums.decay_from_start = take("decay_from_start");
  const std::string inputs = slot_name(slot, "inputs.");
  for (auto it = snapshot.tensors.lower_bound(inputs);
       it != snapshot.tensors.end() && it->first.starts_with(inputs); ++it) {
    const Tensor& packed = snapshot.at(it->first, at::kDouble, 2);
    snapshot.check_that(packed.size(0) == 6);
    sums.inputs[it->first.substr(inputs.size())] = ChannelMoments::unpack(packed, device_);
  }
}

}  // namespace stuffed::eval
