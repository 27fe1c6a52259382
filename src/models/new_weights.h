// The values a new model begins with: draws that are functions of (seed, name).
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "stuffed/models/parameters.h"

namespace stuffed {

/// f32 on the CPU.
Tensor drawn_normal(uint64_t seed,
                    const std::string& name,
                    const std::vector<int64_t>& shape,
                    double deviation);
/// Within [-bound, bound).
Tensor drawn_uniform(uint64_t seed,
                     const std::string& name,
                     const std::vector<int64_t>& shape,
                     double bound);
/// [rows, columns], of which the fewer are orthonormal, times `gain`.
Tensor drawn_orthogonal(uint64_t seed,
                        const std::string& name,
                        const std::vector<int64_t>& shape,
                        double gain);

/// Gives a parameter the value that `value_of` makes for it; an undefined one leaves it as it is.
class Refill : public ParameterVisitor {
 public:
  using ValueOf =
      std::function<Tensor(const std::string&, const std::vector<int64_t>& shape, Role)>;
  Refill(ValueOf value_of, at::Device device) : value_of_(std::move(value_of)), device_(device) {}
  void parameter(const std::string& name,
                 Tensor& home,
                 std::vector<int64_t> shape,
                 Role role) override;

 private:
  ValueOf value_of_;
  at::Device device_;
};

}  // namespace stuffed
