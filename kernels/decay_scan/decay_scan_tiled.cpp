// Tensors in, tensors out: which heads a thread takes, and a chunk's rows from their strided homes
// into dense padded buffers. The arithmetic is in decay_scan_tile.cpp.
#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "kernels/common/rows.h"
#include "kernels/decay_scan/decay_scan.h"
#include "kernels/decay_scan/decay_scan_tile.h"

namespace stuffed::kernels {

namespace {

int64_t round_up(int64_t n, int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// Zeros on a cache line's border.
class Buffer {
 public:
  explicit Buffer(int64_t floats)
      : data_(static_cast<float*>(::operator new (bytes(floats), std::align_val_t{64}))) {
    std::memset(data_.get(), 0, bytes(floats));
  }
  float* get() const { return data_.get(); }

 private:
  static size_t bytes(int64_t floats) { return static_cast<size_t>(floats) * sizeof(float); }
  struct Free {
    void operator()(float* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  std::unique_ptr<float, Free> data_;
};

/// Where x[b,t,h,:] is.
template <class T>
struct HeadRows {
  explicit HeadRows(const Tensor& x)
      : data(x.const_data_ptr<T>()), b(x.stride(0)), t(x.stride(1)), h(x.stride(2)) {}
  const T* at(int64_t batch, int64_t token, int64_t head) const {
    return data + batch * b + token * t + head * h;
  }
  const T* data;
  int64_t b, t, h;
};

/// What one thread works in.
struct Scratch {
  Scratch(int64_t keys, int64_t columns, int64_t heads)
      : q(kTileTokens * keys),
        k(kTileTokens * keys),
        k_t(keys * kTileTokens),
        scores(kTileTokens * kTileTokens),
        log_decay(kTileTokens),
        v_scale(kTileTokens),
        v(kTileTokens * columns),
        weights(kTileTokens * kTileTokens),
        inserted(kTileTokens * columns),
        y(kTileTokens * columns),
        states(heads * keys * columns) {}
  Buffer q, k, k_t, scores, log_decay, v_scale, v, weights, inserted, y;
  Buffer states;  // [heads, keys, columns]
};

template <class T>
class TiledScan {
 public:
  TiledScan(const ScanInputs& in, const Tensor& state, Tensor& y, Tensor& next)
      : q_(in.q),
        k_(in.k),
        v_(in.v),
        log_decay_(in.log_decay),
        v_scale_(in.v_scale ? in.v_scale->unsqueeze(-1) : Tensor()),
        has_v_scale_(in.v_scale.has_value()),
        state_(state.const_data_ptr<float>()),
        y_(y.data_ptr<T>()),
        next_(next.data_ptr<float>()),
        T_(in.q.size(1)),
        H_(state.size(1)),
        K_(state.size(2)),
        V_(state.size(3)),
        keys_(round_up(K_, kTileRows)),
        columns_(round_up(V_, kTileColumns)),
        shared_((H_ == 1 || in.q.stride(2) == 0) && (H_ == 1 || in.k.stride(2) == 0)) {}

  /// Heads [begin, end) of sequence b, all tokens.
  void advance(int64_t b, int64_t begin, int64_t end) const {
    Scratch s(keys_, columns_, end - begin);
    for (int64_t h = begin; h < end; ++h)
      copy_state(state_ + (b * H_ + h) * K_ * V_, V_, state_of(s, h - begin), columns_);
    for (int64_t t = 0; t < T_; t += kTileTokens)
      for (int64_t h = begin; h < end; ++h) {
        if (h == begin || !shared_)
          load_keys(s, b, t, h);
        advance_chunk(s, b, t, h, state_of(s, h - begin));
      }
    for (int64_t h = begin; h < end; ++h)
      copy_state(state_of(s, h - begin), columns_, next_ + (b * H_ + h) * K_ * V_, V_);
  }

 private:
  /// Where v_scale[b,t,h] or log_decay[b,t,h] is.
  struct Numbers {
    explicit Numbers(const Tensor& x)
        : rows(x.defined() ? x : at::empty({1, 1, 1, 1}, at::kFloat)) {}
    HeadRows<float> rows;
  };

  float* state_of(const Scratch& s, int64_t i) const {
    return s.states.get() + i * keys_ * columns_;
  }

  void copy_state(const float* from, int64_t from_stride, float* to, int64_t to_stride) const {
    for (int64_t i = 0; i < K_; ++i)
      load_row(from + i * from_stride, to + i * to_stride, V_);
  }

  int64_t tokens_from(int64_t t) const { return std::min(kTileTokens, T_ - t); }

  void load_keys(const Scratch& s, int64_t b, int64_t t, int64_t h) const {
    for (int64_t i = 0; i < tokens_from(t); ++i) {
      load_row(q_.at(b, t + i, h), s.q.get() + i * keys_, K_);
      load_row(k_.at(b, t + i, h), s.k.get() + i * keys_, K_);
    }
    for (int64_t c = 0; c < K_; ++c)
      for (int64_t i = 0; i < kTileTokens; ++i)
        s.k_t.get()[c * kTileTokens + i] = s.k.get()[i * keys_ + c];
    ops_.scores(s.q.get(), s.k_t.get(), keys_, s.scores.get());
  }

  void advance_chunk(const Scratch& s, int64_t b, int64_t t, int64_t h, float* state) const {
    const int64_t tokens = tokens_from(t);
    for (int64_t i = 0; i < tokens; ++i) {
      s.log_decay.get()[i] = *log_decay_.rows.at(b, t + i, h);
      s.v_scale.get()[i] = has_v_scale_ ? *v_scale_.rows.at(b, t + i, h) : 1.0F;
      load_row(v_.at(b, t + i, h), s.v.get() + i * columns_, V_);
    }
    ops_.advance({.tokens = tokens,
                  .keys = keys_,
                  .columns = columns_,
                  .q = s.q.get(),
                  .k_t = s.k_t.get(),
                  .scores = s.scores.get(),
                  .log_decay = s.log_decay.get(),
                  .v_scale = s.v_scale.get(),
                  .v = s.v.get(),
                  .weights = s.weights.get(),
                  .inserted = s.inserted.get(),
                  .state = state,
                  .y = s.y.get()});
    for (int64_t i = 0; i < tokens; ++i)
      store_row(s.y.get() + i * columns_, y_ + ((b * T_ + t + i) * H_ + h) * V_, V_);
  }

  const TileOps& ops_ = tile_ops().front();
  HeadRows<T> q_, k_, v_;
  Numbers log_decay_, v_scale_;
  bool has_v_scale_;
  const float* state_;
  T* y_;
  float* next_;
  int64_t T_, H_, K_, V_;
  int64_t keys_, columns_;  // padded
  bool shared_;             // one q and one k for all heads
};

constexpr int64_t kThreadWork = 262144;  // tokens x keys x values

template <class T>
void scan(const ScanInputs& in, const Tensor& state, Tensor& y, Tensor& next) {
  const TiledScan<T> tiled(in, state, y, next);
  const int64_t B = state.size(0), H = state.size(1);
  // Heads worth a thread of their own, some 10 us of work.
  const int64_t work = in.q.size(1) * state.size(2) * state.size(3);
  const int64_t grain = std::max<int64_t>(1, kThreadWork / work);
  at::parallel_for(0, B * H, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin / H; b * H < end; ++b)
      tiled.advance(b, std::max(begin, b * H) - b * H, std::min(end, (b + 1) * H) - b * H);
  });
}

}  // namespace

bool decay_scan_tiled_takes(const ScanInputs& in, const Tensor& state) {
  const auto good = [&](const Tensor& x) {
    return x.scalar_type() == in.v.scalar_type() && (x.stride(-1) == 1 || x.size(-1) == 1);
  };
  const auto type = in.v.scalar_type();
  return state.is_cpu() && state.scalar_type() == at::kFloat && state.numel() > 0 &&
         in.q.size(1) > 0 && !in.bonus && !in.erase && !in.factored_decay &&
         in.log_decay.size(3) == 1 && (type == at::kFloat || type == at::kBFloat16) && good(in.q) &&
         good(in.k) && good(in.v);
}

ScanResult decay_scan_tiled(const ScanInputs& in, const Tensor& state) {
  Tensor y = at::empty(in.v.sizes(), in.v.options().memory_format(at::MemoryFormat::Contiguous));
  Tensor next = at::empty(state.sizes(), state.options());
  const Tensor dense = state.contiguous();
  if (in.v.scalar_type() == at::kFloat)
    scan<float>(in, dense, y, next);
  else
    scan<c10::BFloat16>(in, dense, y, next);
  return {y, next};
}

}  // namespace stuffed::kernels
