#include "stuffed/eval/state_dump.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ATen/ATen.h>

#include "stuffed/core/error.h"
#include "stuffed/io/json.h"
#include "stuffed/models/one_token.h"

namespace stuffed::eval {

namespace fs = std::filesystem;

const char* const kStateDumpTensors =
    "Of a --dump (f32; P positions, H heads): positions [P], layers, heads int64; for each layer "
    "L\n"
    "  state.layer=L [P,H,K,V]    after that many tokens and any --mitigation; K key channels\n"
    "                             (d_state in Mamba), V value channels\n"
    "  log_decay.layer=L [P,H,K|1], q, k [P,H,K] (C, B in Mamba), v [P,H,V] (x), dt [P,H] "
    "(Mamba),\n"
    "  erase_read, erase_write [P,H,K] (RWKV-7)   what the model asks for at the last of them\n";

namespace {

/// The state and the gates of the last token of row 0, [H,...], by name.
std::map<std::string, Tensor> tensors_of(const ScanInputs& in, const LayerState& after) {
  const auto last = [](const Tensor& x) { return x.select(0, 0).select(0, x.size(1) - 1); };
  std::map<std::string, Tensor> found = {{"state", after.recurrent.select(0, 0)},
                                         {"q", last(in.q)},
                                         {"k", last(in.k)},
                                         {"v", last(in.v)}};
  found["log_decay"] = in.factored_decay
                           ? last(in.factored_decay->step).unsqueeze(-1) * in.factored_decay->rate +
                                 in.factored_decay->offset
                           : last(in.log_decay);
  if (in.v_scale)
    found["dt"] = last(*in.v_scale);
  if (in.erase) {
    found["erase_read"] = last(in.erase->read);
    found["erase_write"] = last(in.erase->write);
  }
  return found;
}

using ShapesByName = std::map<std::string, std::vector<int64_t>>;

/// Shapes of each layer's tensors, without their heads.
std::map<int, ShapesByName> shapes_of(const RecurrentLM& model) {
  std::map<int, ShapesByName> shapes;
  Watch watch([&](Where where, const ScanInputs& in, const LayerState& after) {
    for (const auto& [name, tensor] : tensors_of(in, after))
      shapes[where.layer][name] = tensor.sizes().slice(1).vec();
  });
  feed_one_token(model, *build_recurrence({.mitigations = {}, .observer = &watch}));
  return shapes;
}

int64_t product(const std::vector<int64_t>& sizes) {
  int64_t product = 1;
  for (const int64_t size : sizes)
    product *= size;
  return product;
}

fs::path partial(const fs::path& path) {
  return fs::path(path).concat(".partial");
}

}  // namespace

struct StateDump::Slot {
  std::vector<int64_t> shape;  // [P,H,...]
  int64_t begin = 0;           // in the file's data
  int64_t bytes() const { return product(shape) * static_cast<int64_t>(sizeof(float)); }
  int64_t bytes_of_position() const { return bytes() / shape[0]; }
};

StateDump::StateDump(const RecurrentLM& model, DumpOptions options)
    : options_(std::move(options)),
      heads_(at::tensor(options_.heads, at::kLong).to(model.device())),
      slots_(static_cast<size_t>(model.config().layers)) {
  const std::map<int, ShapesByName> shapes = shapes_of(model);
  const auto count = [](const std::vector<int64_t>& x) { return static_cast<int64_t>(x.size()); };
  data_bytes_ = (count(options_.positions) + count(options_.layers) + count(options_.heads)) *
                static_cast<int64_t>(sizeof(int64_t));
  for (const int64_t layer : options_.layers)
    for (const auto& [name, shape] : shapes.at(static_cast<int>(layer))) {
      Slot slot{.shape = {count(options_.positions), count(options_.heads)}, .begin = data_bytes_};
      slot.shape.insert(slot.shape.end(), shape.begin(), shape.end());
      data_bytes_ += slot.bytes();
      slots_[static_cast<size_t>(layer)].emplace(name, std::move(slot));
    }
  header_ = header();
}

StateDump::~StateDump() {
  if (file_ >= 0)
    ::close(file_);
}

int64_t StateDump::bytes() const {
  return static_cast<int64_t>(header_.size()) + data_bytes_;
}

std::string StateDump::header() const {
  auto fields = nlohmann::ordered_json::object();
  if (!options_.metadata.empty())
    fields["__metadata__"] = options_.metadata;
  int64_t begin = 0;
  for (const auto& [name, list] : {std::pair{"positions", &options_.positions},
                                   {"layers", &options_.layers},
                                   {"heads", &options_.heads}}) {
    const auto end = begin + static_cast<int64_t>(list->size() * sizeof(int64_t));
    fields[name] = {{"dtype", "I64"}, {"shape", {list->size()}}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  for (size_t layer = 0; layer < slots_.size(); ++layer)
    for (const auto& [name, slot] : slots_[layer])
      fields[fmt::format("{}.layer={}", name, layer)] = {
          {"dtype", "F32"},
          {"shape", slot.shape},
          {"data_offsets", {slot.begin, slot.begin + slot.bytes()}}};
  std::string text = fields.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t size = text.size();
  return std::string(reinterpret_cast<const char*>(&size), sizeof size) + text;
}

void StateDump::write(const void* data, size_t bytes, int64_t place) {
  for (size_t written = 0; written < bytes;) {
    const ssize_t n = ::pwrite(file_, static_cast<const char*>(data) + written, bytes - written,
                               place + static_cast<int64_t>(written));
    check(n > 0 || errno == EINTR, Error::Kind::Output, "{}: cannot be written: {}",
          partial(options_.file).string(), std::strerror(n == 0 ? ENOSPC : errno));
    written += static_cast<size_t>(std::max<ssize_t>(n, 0));
  }
}

void StateDump::begin(int64_t position) {
  const std::string path = partial(options_.file).string();
  const bool anew = position < options_.positions.front();
  file_ = ::open(path.c_str(), O_RDWR | O_CLOEXEC | (anew ? O_CREAT | O_TRUNC : 0), 0644);
  struct stat status = {};
  const bool there = file_ >= 0 && ::fstat(file_, &status) == 0;
  check(anew || (there && status.st_size == bytes()), Error::Kind::Input,
        "{}: is missing or not whole, but the states up to token {} should be in it; start anew "
        "with --overwrite",
        path, position);
  const bool is_sized = there && (!anew || ::ftruncate(file_, bytes()) == 0);
  check(is_sized, Error::Kind::Output, "{}: cannot be written: {}", path, std::strerror(errno));
  if (!anew)
    return;
  write(header_.data(), header_.size(), 0);
  auto place = static_cast<int64_t>(header_.size());
  for (const std::vector<int64_t>* list :
       {&options_.positions, &options_.layers, &options_.heads}) {
    const size_t size = list->size() * sizeof(int64_t);
    write(list->data(), size, place);
    place += static_cast<int64_t>(size);
  }
}

void StateDump::on_update(Where where, const ScanInputs& in, const LayerState& after) {
  const auto& slots = slots_.at(static_cast<size_t>(where.layer));
  const int64_t end = where.position + in.q.size(1);
  const auto found = std::ranges::lower_bound(options_.positions, end);
  if (slots.empty() || in.q.size(1) == 0 || found == options_.positions.end() || *found != end)
    return;
  const int64_t index = found - options_.positions.begin();
  for (const auto& [name, tensor] : tensors_of(in, after)) {
    const Slot& slot = slots.at(name);
    const Tensor values = tensor.index_select(0, heads_).to(at::kCPU, at::kFloat).contiguous();
    write(values.const_data_ptr(), values.nbytes(),
          static_cast<int64_t>(header_.size()) + slot.begin + index * slot.bytes_of_position());
  }
}

void StateDump::finish() {
  const fs::path from = partial(options_.file);
  const bool is_whole = ::fsync(file_) == 0 && ::rename(from.c_str(), options_.file.c_str()) == 0;
  check(is_whole, Error::Kind::Output, "{}: cannot be written: {}", options_.file.string(),
        std::strerror(errno));
  ::close(file_);
  file_ = -1;
}

}  // namespace stuffed::eval
