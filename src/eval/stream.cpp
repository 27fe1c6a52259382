#include "stuffed/eval/stream.h"

#include <algorithm>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"

namespace stuffed::eval {

namespace {
/// The next absolute multiple of `step` behind `position`.
int64_t next_multiple(int64_t position, int64_t step) {
  return (position / step + 1) * step;
}
}  // namespace

void stream(const RecurrentLM& model,
            const Recurrence& rule,
            const Tensor& tokens,
            State& state,
            int64_t length,
            const std::function<void(const Segment&)>& on_segment,
            int64_t stride,
            std::span<const int64_t> cuts) {
  check(tokens.dim() == 2 && tokens.size(1) >= 1 && length > 0 && stride >= 0,
        Error::Kind::Internal, "stream: tokens [{}], length {}, stride {}",
        fmt::join(tokens.sizes(), ","), length, stride);
  const int64_t first = state.position, last = first + tokens.size(1) - 1;
  for (int64_t begin = first; begin < last;) {
    int64_t end = std::min(last, next_multiple(begin, length));
    if (stride > 0)
      end = std::min(end, next_multiple(begin, stride));
    if (const auto cut = std::ranges::upper_bound(cuts, begin); cut != cuts.end())
      end = std::min(end, *cut);
    const Tensor piece =
        tokens.slice(1, begin - first, end - first + 1).to(model.device(), at::kLong);
    Segment segment{
        .begin = begin, .inputs = piece.slice(1, 0, -1), .targets = piece.slice(1, 1), .out = {}};
    segment.out = model.forward(segment.inputs, state, rule);
    on_segment(segment);
    begin = end;
  }
}

}  // namespace stuffed::eval
