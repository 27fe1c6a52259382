// Parameters as plain tensors, named once by each family's visit().
#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "stuffed/io/tensor_file.h"
#include "stuffed/ops/linear.h"

namespace stuffed {

/// How a parameter is stored, initialised and regularised.
enum class Role {
  Embedding,  // model dtype; normal(0, 0.02); weight decay
  Matrix,     // model dtype; uniform(+-1/sqrt(fan_in)); weight decay
  Norm,       // f32; ones
  Bias,       // f32; zeros
  Conv,       // f32 taps of a depthwise convolution; uniform(+-1/sqrt(W))
  Gate,  // f32 whatever the weights' type (A_log, dt_bias, D, decays, bonus); initialised by the
         // family
};

struct ParameterVisitor {
  virtual ~ParameterVisitor() = default;
  /// `name` is the family's canonical tensor name; `home` receives or holds the tensor; `shape` is
  /// what the configuration demands.
  virtual void parameter(const std::string& name,
                         Tensor& home,
                         std::vector<int64_t> shape,
                         Role role) = 0;
  /// A weight that inference may prepack. By default the same as parameter(name, layer.weight,
  /// ...).
  virtual void matrix(const std::string& name, ops::Linear& layer, std::vector<int64_t> shape);
};

/// One canonical tensor made from a file's tensor.
struct WeightSource {
  std::string file_name;  // the tensor's name in the file
  std::function<Tensor(const Tensor&)> convert =
      {};  // slice, transpose, reorder; identity if empty
};

/// What a layout is: where each canonical tensor comes from, and which tensors of the file are no
/// weights.
struct WeightMap {
  std::map<std::string, WeightSource> sources;  // by canonical name
  std::set<std::string> ignored;                // names in the file
};

/// Fills every parameter from the file: shapes checked, converted to the type its role demands
/// (`dtype` for matrices), moved to `device`. One pass; a tensor's pages are released once it is
/// converted.
/// Errors  Input if a tensor is missing, misshapen, or unknown tensors remain
class ParameterLoader : public ParameterVisitor {
 public:
  ParameterLoader(const io::TensorFile& file,
                  const WeightMap& map,
                  at::ScalarType dtype,
                  at::Device device,
                  std::string hint);
  void parameter(const std::string& name,
                 Tensor& home,
                 std::vector<int64_t> shape,
                 Role role) override;
  void finish() const;  // throws if the file holds tensors nobody asked for

 private:
  const io::TensorFile& file_;
  const WeightMap& map_;
  at::ScalarType dtype_;
  at::Device device_;
  std::string hint_;  // where the expected shapes come from, for messages
  std::set<std::string> used_;
};

/// Checks shapes and names as ParameterLoader does, and counts, without reading a weight.
class ParameterCounter : public ParameterVisitor {
 public:
  ParameterCounter(io::TensorDirectory file, const WeightMap& map, std::string hint)
      : file_(std::move(file)), map_(map), hint_(std::move(hint)) {}
  void parameter(const std::string& name,
                 Tensor& home,
                 std::vector<int64_t> shape,
                 Role role) override;
  void finish() const;  // throws if the file holds tensors nobody asked for
  int64_t elements() const { return elements_; }

 private:
  io::TensorDirectory file_;
  const WeightMap& map_;
  std::string hint_;
  std::set<std::string> used_;
  int64_t elements_ = 0;
};

/// Gives every parameter its generic initial value, a function of (seed, name).
class ParameterInitialiser : public ParameterVisitor {
 public:
  ParameterInitialiser(uint64_t seed, at::Device device) : seed_(seed), device_(device) {}
  void parameter(const std::string& name,
                 Tensor& home,
                 std::vector<int64_t> shape,
                 Role role) override;

 private:
  uint64_t seed_;
  at::Device device_;
};

/// Collects (name, tensor, role) in visiting order, for saving, counting and the optimiser.
struct ParameterList : ParameterVisitor {
  struct Item {
    std::string name;
    Tensor* home;
    Role role;
  };
  std::vector<Item> items;
  void parameter(const std::string& name,
                 Tensor& home,
                 std::vector<int64_t> shape,
                 Role role) override;
};

/// Prepacks every matrix for inference on the CPU; see ops::Linear::pack.
struct MatrixPacker : ParameterVisitor {
  void parameter(const std::string&, Tensor&, std::vector<int64_t>, Role) override {}
  void matrix(const std::string&, ops::Linear& layer, std::vector<int64_t>) override {
    layer.pack(true);
  }
};

}  // namespace stuffed
