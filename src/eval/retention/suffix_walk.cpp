#include "suffix_walk.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/eval/stream.h"
#include "stuffed/models/state_file.h"

namespace stuffed::eval {

namespace {

/// For each suffix, by its first position, the last point that reads it. Position 0 is the whole
/// stream's.
std::map<int64_t, int64_t> starts_of(const std::vector<SuffixPoint>& points) {
  std::map<int64_t, int64_t> last_read;
  for (const SuffixPoint& point : points) {
    check(point.read >= 1, Error::Kind::Internal, "effective_remembrance: nothing is read");
    last_read[0] = std::max(last_read[0], point.read);
    for (const int64_t n : point.suffix_tokens) {
      check(n >= 1 && n <= point.read, Error::Kind::Internal,
            "effective_remembrance: the last {} of {} tokens", n, point.read);
      int64_t& last = last_read[point.read - n];
      last = std::max(last, point.read);
    }
  }
  return last_read;
}

/// One sequence that has read nothing, to be joined to `state`. What a mitigation remembers of past
/// tokens is, for it, tokens that left nothing.
State fresh_state(const RecurrentLM& model, const State& state) {
  State fresh = model.initial_state(1);
  fresh.position = state.position;
  for (size_t layer = 0; layer < state.layers.size(); ++layer)
    for (const auto& [slot, tensor] : state.layers[layer].extra)
      fresh.layers[layer].extra[slot] = at::zeros_like(tensor.narrow(0, 0, 1));
  return fresh;
}

class Walk {
 public:
  Walk(const RecurrentLM& model, const Recurrence& rule, const Tensor& tokens, int64_t segment)
      : model_(model),
        rule_(rule),
        tokens_(tokens),
        segment_(segment),
        state_(model.initial_state(1)) {}

  void join() {
    const int64_t start = state_.position;
    state_ = State::concat({state_, fresh_state(model_, state_)});
    starts_.push_back(start);
  }

  int64_t position() const { return state_.position; }

  void fill(Snapshot& snapshot) const {
    put_state(snapshot.tensors, "state.", state_);
    snapshot.tensors["walk.starts"] = at::tensor(starts_, at::kLong);
    snapshot.tensors["walk.hidden"] = hidden_;
    snapshot.fields["position"] = state_.position;
    snapshot.fields["fed"] = fed_;
  }

  void go_on(const Snapshot& from) {
    const int64_t position = from.integer("position", 1, tokens_.size(1) - 1);
    const Tensor &starts = from.at("walk.starts", at::kLong, 1),
                 &hidden = from.at("walk.hidden", model_.dtype(), 2);
    from.check_that(starts.numel() > 0 && hidden.size(0) == starts.numel() &&
                    hidden.size(1) == model_.config().d_model);
    starts_.assign(starts.const_data_ptr<int64_t>(),
                   starts.const_data_ptr<int64_t>() + starts.numel());
    hidden_ = hidden.to(model_.device(), hidden.scalar_type(), false, /*copy=*/true);
    fed_ = from.integer("fed", 1, std::numeric_limits<int64_t>::max());
    state_ = take_state(from.tensors, "state.", position, starts.numel(), model_, from.where);
  }

  void advance(int64_t end, const WalkWatch& watch, const std::function<void(Snapshot&)>& fill) {
    const auto rows = static_cast<int64_t>(starts_.size());
    const Tensor piece = tokens_.slice(1, state_.position, end + 1).expand({rows, -1});
    const auto share = segment_ / static_cast<int64_t>(std::bit_ceil(starts_.size()));
    const int64_t length = std::max(share, std::min<int64_t>(segment_, 64));
    stream(model_, rule_, piece, state_, length, [&](const Segment& part) {
      hidden_ = part.out.hidden.select(1, part.out.hidden.size(1) - 1);
      fed_ += part.inputs.numel();
      if (watch.on_progress)
        watch.on_progress(fed_);
      if (watch.on_reached)
        watch.on_reached(fill);
    });
  }

  /// [suffixes]
  Tensor measure(const SuffixPoint& point) const {
    const Tensor logits = ops::linear(hidden_, model_.head().linear).to(at::kFloat);
    const Tensor p = logits.narrow(1, 0, model_.head().vocab).softmax(1);  // [R,vocab]
    std::vector<int64_t> rows;
    for (const int64_t n : point.suffix_tokens)
      rows.push_back(std::lower_bound(starts_.begin(), starts_.end(), point.read - n) -
                     starts_.begin());
    const Tensor which = at::tensor(rows, at::TensorOptions(at::kLong)).to(p.device());
    return total_variation(p.index_select(0, which), p[0]).cpu();
  }

  void drop(const std::map<int64_t, int64_t>& last_read) {
    std::vector<int64_t> rows, starts;
    for (size_t row = 0; row < starts_.size(); ++row)
      if (last_read.at(starts_[row]) > state_.position) {
        rows.push_back(static_cast<int64_t>(row));
        starts.push_back(starts_[row]);
      }
    if (rows.size() < starts_.size())
      state_ = state_.select(rows);
    starts_ = std::move(starts);
  }

 private:
  const RecurrentLM& model_;
  const Recurrence& rule_;
  const Tensor& tokens_;  // [1,N+1]
  int64_t segment_;
  State state_;
  std::vector<int64_t> starts_ = {0};  // of each row, ascending
  Tensor hidden_;                      // [R,D], of the token read last
  int64_t fed_ = 0;
};

std::string result_name(size_t point) {
  return fmt::format("effrem.{}", point);
}

/// What was measured before `position`.
void take_results(const Snapshot& from,
                  const std::vector<SuffixPoint>& points,
                  int64_t position,
                  std::vector<Tensor>& result) {
  for (size_t i = 0; i < points.size(); ++i)
    if (points[i].read < position) {
      result[i] = from.at(result_name(i), at::kDouble, 1).clone();
      from.check_that(result[i].numel() == std::ssize(points[i].suffix_tokens));
    }
}

}  // namespace

std::vector<int64_t> log_spaced(int64_t longest, int64_t points) {
  points = std::min(points, longest);
  if (points == 1)
    return {longest};
  std::vector<int64_t> values;
  for (int64_t i = 0; i < points; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(points - 1);
    const int64_t value = std::llround(std::pow(static_cast<double>(longest), exponent));
    const int64_t least = values.empty() ? 1 : values.back() + 1;
    values.push_back(std::clamp(value, least, longest - (points - 1 - i)));
  }
  return values;
}

int64_t tokens_to_feed(const std::vector<SuffixPoint>& points) {
  int64_t tokens = 0;
  for (const auto& [start, last] : starts_of(points))
    tokens += last - start;
  return tokens;
}

Tensor total_variation(const Tensor& p, const Tensor& q) {
  return (p.to(at::kDouble) - q.to(at::kDouble)).abs().sum(-1) / 2;
}

std::vector<Tensor> effective_remembrance(const RecurrentLM& model,
                                          const Recurrence& rule,
                                          const Tensor& tokens,
                                          const std::vector<SuffixPoint>& points,
                                          int64_t segment,
                                          const WalkWatch& watch) {
  const std::map<int64_t, int64_t> starts = starts_of(points);
  std::set<int64_t> events;
  for (const auto& [start, last] : starts)
    events.insert({start, last});
  for (const SuffixPoint& point : points)
    events.insert(point.read);
  check(*events.rbegin() < tokens.size(1), Error::Kind::Internal,
        "effective_remembrance: reads {} tokens of {}", *events.rbegin(), tokens.size(1) - 1);

  std::vector<Tensor> result(points.size());
  Walk walk(model, rule, tokens, segment);
  if (watch.from) {
    walk.go_on(*watch.from);
    take_results(*watch.from, points, walk.position(), result);
  }
  const auto fill = [&](Snapshot& snapshot) {
    walk.fill(snapshot);
    for (size_t i = 0; i < points.size(); ++i)
      if (result[i].defined())
        snapshot.tensors[result_name(i)] = result[i];
  };
  // At an event the walk stops before anything is measured or joined there.
  for (auto at = events.lower_bound(std::max<int64_t>(1, walk.position())); at != events.end();
       ++at) {
    const int64_t event = *at;
    walk.advance(event, watch, fill);
    bool measured = false;
    for (size_t i = 0; i < points.size(); ++i)
      if (points[i].read == event) {
        result[i] = walk.measure(points[i]);
        measured = true;
      }
    if (measured && event < *events.rbegin())
      walk.drop(starts);
    if (starts.contains(event))
      walk.join();
  }
  return result;
}

}  // namespace stuffed::eval
