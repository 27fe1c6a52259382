// An output that another process is writing.
#pragma once
#include <string>

#include "stuffed/core/error.h"

namespace stuffed::io {

/// Thrown where it would be an Output error otherwise: it may go well later.
class InUse : public Error {
 public:
  explicit InUse(const std::string& message) : Error(Kind::Output, message) {}
};

}  // namespace stuffed::io
