// Parameters as plain tensors, named once by each family's visit().
#pragma once
#include <cstdint>
#include <functional>
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

/// Canonical name -> where it comes from. A layout is such a map, and nothing else.
using WeightMap = std::map<std::string, WeightSource>;

}  // namespace stuffed
