// The rows of logits on which every form is compared: vocabularies around the lanes of vectors, and
// columns beyond the vocabulary.
#pragma once
#include <fmt/format.h>

#include "kernels/common/op_inputs.h"
#include "kernels/nll/nll.h"

namespace stuffed::kernels {

inline NamedInputs<NllInputs> nll_cases() {
  at::manual_seed(14);
  NamedInputs<NllInputs> cases;
  for (const at::ScalarType type : kCaseTypes)
    for (const int64_t vocab : {7, 256, 1000, 50277})
      for (const double scale : {1.0, 30.0})
        cases.emplace_back(fmt::format("vocabulary of {}, logits about {}", vocab, scale),
                           NllInputs{.logits = drawn({9, (vocab + 15) / 8 * 8}, type, scale),
                                     .targets = at::randint(vocab, {9}, at::kLong),
                                     .vocab = vocab});
  return cases;
}

}  // namespace stuffed::kernels
