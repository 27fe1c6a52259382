// A family reads its configuration from tensor shapes, so a shape is made by imagining the few
// tensors it looks at. Sizes as published: see the families' files for their sources.
#include "stuffed/models/shapes.h"

#include <cerrno>
#include <cstring>
#include <map>
#include <sys/mman.h>
#include <unistd.h>

#include "imagined.h"
#include "stuffed/core/error.h"

namespace stuffed {

namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;

struct Size {
  const char* family;
  int64_t d_model, layers, heads, mlp_width, vocab_rows;
  int64_t key_width = 0;  // Mamba: state rows; RWKV: low ranks are scaled by it
};

/// name -> size. Mamba-1's heads are its channels, 2 x d_model.
const std::map<std::string, Size>& sizes() {
  static const std::map<std::string, Size> all = {
      {"mamba2-tiny", {"mamba2", 64, 2, 4, 0, 256, 32}},
      {"mamba2-130m", {"mamba2", 768, 24, 24, 0, 50288, 128}},
      {"mamba2-370m", {"mamba2", 1024, 48, 32, 0, 50288, 128}},
      {"mamba2-780m", {"mamba2", 1536, 48, 48, 0, 50288, 128}},
      {"mamba2-1.3b", {"mamba2", 2048, 48, 64, 0, 50288, 128}},
      {"mamba2-2.7b", {"mamba2", 2560, 64, 80, 0, 50288, 128}},
      {"mamba1-tiny", {"mamba1", 64, 2, 128, 0, 256, 16}},
      {"mamba1-130m", {"mamba1", 768, 24, 1536, 0, 50280, 16}},
      {"mamba1-370m", {"mamba1", 1024, 48, 2048, 0, 50280, 16}},
      {"mamba1-790m", {"mamba1", 1536, 48, 3072, 0, 50280, 16}},
      {"mamba1-1.4b", {"mamba1", 2048, 48, 4096, 0, 50280, 16}},
      {"mamba1-1.3b", {"mamba1", 2048, 48, 4096, 0, 50280, 16}},  // 1.4b by its other name
      {"mamba1-2.8b", {"mamba1", 2560, 64, 5120, 0, 50280, 16}},
      {"rwkv5-tiny", {"rwkv5", 64, 2, 4, 128, 256}},
      {"rwkv5-1.5b", {"rwkv5", 2048, 24, 32, 7168, 65536}},
      {"rwkv5-3b", {"rwkv5", 2560, 32, 40, 8960, 65536}},
      {"rwkv5-7b", {"rwkv5", 4096, 32, 64, 14336, 65536}},
      {"rwkv6-tiny", {"rwkv6", 64, 2, 4, 128, 256, 8}},
      {"rwkv6-1.6b", {"rwkv6", 2048, 24, 32, 7168, 65536, 32}},
      {"rwkv6-3b", {"rwkv6", 2560, 32, 40, 8960, 65536, 32}},
      {"rwkv6-7b", {"rwkv6", 4096, 32, 64, 14336, 65536, 64}},
      {"rwkv7-tiny", {"rwkv7", 64, 2, 4, 128, 256, 8}},
      {"rwkv7-1.5b", {"rwkv7", 2048, 24, 32, 8192, 65536, 96}},
      {"hgrn2-tiny", {"hgrn2", 64, 2, 2, 128, 256}},
      {"hgrn2-1.3b", {"hgrn2", 2048, 24, 16, 5632, 32000}},
  };
  return all;
}

Shapes mamba_shapes(const Size& s) {
  const bool first = s.family == std::string_view("mamba1");
  const int64_t d = s.d_model, inner = 2 * d, rank = (d + 15) / 16;
  Shapes shapes = {{"backbone.embedding.weight", {s.vocab_rows, d}}};
  for (int64_t i = 0; i < s.layers; ++i)
    shapes[fmt::format("backbone.layers.{}.mixer.A_log", i)] =
        first ? std::vector<int64_t>{inner, s.key_width} : std::vector<int64_t>{s.heads};
  const std::string mixer = "backbone.layers.0.mixer.";
  const int64_t channels = first ? inner : inner + 2 * s.key_width;
  shapes[mixer + "conv1d.weight"] = {channels, 1, 4};
  shapes[mixer + "conv1d.bias"] = {channels};
  shapes[mixer + "out_proj.weight"] = {d, inner};
  if (first) {
    shapes[mixer + "dt_proj.weight"] = {inner, rank};
    return shapes;
  }
  shapes[mixer + "dt_bias"] = {s.heads};
  shapes[mixer + "D"] = {s.heads};
  shapes[mixer + "norm.weight"] = {inner};
  shapes[mixer + "in_proj.weight"] = {inner + channels + s.heads, d};
  return shapes;
}

Shapes rwkv_shapes(const Size& s) {
  const std::string_view family = s.family;
  const int64_t d = s.d_model, head_size = d / s.heads;
  Shapes shapes = {{"emb.weight", {s.vocab_rows, d}}};
  for (int64_t i = 0; i < s.layers; ++i)
    shapes[fmt::format("blocks.{}.ln1.weight", i)] = {d};
  const std::string att = "blocks.0.att.";
  shapes["blocks.0.ffn.key.weight"] = {s.mlp_width, d};
  shapes[att + "ln_x.weight"] = {d};
  if (family == "rwkv7") {
    // The published 1.5B has ranks 96 (decay, rate), 64 (value) and 256 (gate).
    shapes[att + "r_k"] = {s.heads, head_size};
    const std::string last = fmt::format("blocks.{}.att.", s.layers - 1);
    shapes[last + "w1"] = {d, s.key_width};
    shapes[last + "a1"] = {d, s.key_width};
    shapes[last + "v1"] = {d, s.key_width * 2 / 3};
    shapes[last + "g1"] = {d, s.key_width * 8 / 3};
    return shapes;
  }
  shapes[att + "time_faaaa"] = {s.heads, head_size};
  shapes[att + "gate.weight"] = {d, d};
  if (family == "rwkv5") {
    shapes[att + "time_decay"] = {s.heads, head_size};
    shapes[att + "time_mix_g"] = {d};
    return shapes;
  }
  shapes[att + "time_decay"] = {d};
  shapes[att + "time_maa_w1"] = {d, 5 * s.key_width};
  shapes[att + "time_decay_w1"] = {d, 2 * s.key_width};
  return shapes;
}

Shapes hgrn2_shapes(const Size& s) {
  const int64_t d = s.d_model;
  Shapes shapes = {{"model.embeddings.weight", {s.vocab_rows, d}},
                   {"model.lower_bounds", {s.layers, d}},
                   {"lm_head.weight", {s.vocab_rows, d}}};
  for (int64_t i = 0; i < s.layers; ++i)
    for (const char* name : {"attn.f_proj.weight", "attn.i_proj.weight"})
      shapes[fmt::format("model.layers.{}.{}", i, name)] = {d, d};
  shapes["model.layers.0.mlp.up_proj.weight"] = {s.mlp_width, d};
  shapes["model.layers.0.mlp.down_proj.weight"] = {d, s.mlp_width};
  return shapes;
}

/// A safetensors file that is all holes: the header takes memory, the values never do, and nobody
/// reads them. So the families' own readers find everything where they look for it.
io::TensorFile holes(const Shapes& shapes) {
  io::json header = io::json::object();
  int64_t end = 0;
  for (const auto& [name, shape] : shapes) {
    const int64_t begin = end;
    int64_t elements = 1;
    for (const int64_t size : shape)
      elements *= size;
    end += elements * 4;
    header[name] = {{"dtype", "F32"}, {"shape", shape}, {"data_offsets", {begin, end}}};
  }
  const std::string text = header.dump();
  const uint64_t size = text.size();
  const int file = memfd_create("shapes", MFD_CLOEXEC);
  const bool is_written = file >= 0 && write(file, &size, sizeof size) == sizeof size &&
                          write(file, text.data(), size) == static_cast<ssize_t>(size) &&
                          ftruncate(file, static_cast<off_t>(sizeof size + size) + end) == 0;
  const int why = errno;
  check(is_written, why == EFBIG ? Error::Kind::Output : Error::Kind::Memory,
        "the imagined model's table of {} bytes could not be kept: {}{}", size, std::strerror(why),
        why == EFBIG ? "; the limit on the size of files (ulimit -f) is below the model's" : "");
  const io::TensorFile holes = io::TensorFile::open(fmt::format("/proc/self/fd/{}", file));
  close(file);
  return holes;
}

Checkpoint imagined(const std::string& name) {
  const auto found = sizes().find(name);
  check(found != sizes().end(), Error::Kind::Usage, "'{}' is not a known shape; known are {}", name,
        fmt::join(shape_names(), ", "));
  const Size& size = found->second;
  const std::string_view family = size.family;
  io::json config = nullptr;
  if (family == "hgrn2")
    config = {{"num_heads", size.heads}, {"expand_ratio", size.d_model / size.heads}};
  return {.path = name,
          .weights = holes(family.starts_with("mamba")  ? mamba_shapes(size)
                           : family.starts_with("rwkv") ? rwkv_shapes(size)
                                                        : hgrn2_shapes(size)),
          .config = config,
          .config_path = name};
}

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const auto& [name, size] : sizes())
    names.push_back(name);
  return names;
}

std::unique_ptr<RecurrentLM> shape_skeleton(const std::string& name) {
  return imagine_model(imagined(name), {}, {});
}

std::unique_ptr<RecurrentLM> random_model(const std::string& name,
                                          uint64_t seed,
                                          const LoadOptions& options) {
  const at::ScalarType dtype =
      options.dtype.value_or(options.device.is_cpu() ? at::kFloat : at::kBFloat16);
  const auto fill = [&](RecurrentLM& model) {
    RandomFiller filler(seed, dtype, options.device);
    model.visit(filler);
  };
  return imagine_model(imagined(name), fill, options);
}

}  // namespace stuffed
