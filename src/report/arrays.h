// Arrays beside a journal, as numbers.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "run.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::report {

struct Array {
  std::vector<int64_t> shape;
  std::vector<double> values;  // row by row
};

/// The file that a finished run wrote, or the part of the first document that one has left which
/// goes on.
class Arrays {
 public:
  /// Nothing if there is no such file, or it is not whole; `why` then says so.
  static std::optional<Arrays> open(const Run& run, std::string& why);

  bool has(const std::string& name) const { return file_.has(name); }
  /// Errors  Input if it is not there
  Array load(const std::string& name) const;
  /// Of the first document: without the axis of documents, which a part does not have.
  Array of_document(const std::string& name) const;

 private:
  Arrays(io::TensorFile file, bool is_part) : file_(std::move(file)), is_part_(is_part) {}

  io::TensorFile file_;
  bool is_part_;
};

}  // namespace stuffed::report
