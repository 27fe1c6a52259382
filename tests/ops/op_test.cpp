// The rows of operations, the notation of --impl, and what forcing a form does.
#include "stuffed/ops/op.h"

#include <set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "kernels/norm/norm.h"
#include "stuffed/core/error.h"
#include "stuffed/ops/norms.h"

namespace stuffed {
namespace {

using ops::parse_impls;
using testing::bitwise_equal;

Error::Kind kind_of(const std::string& text) {
  try {
    parse_impls(text);
  } catch (const Error& error) {
    return error.kind();
  }
  ADD_FAILURE() << text << " is taken";
  return Error::Kind::Internal;
}

TEST(Op, EveryRowHasAReferenceAndItsFormsOnce) {
  std::set<std::string_view> names;
  for (const ops::Op* op : ops::all_ops()) {
    EXPECT_TRUE(names.insert(op->name).second) << op->name;
    EXPECT_EQ(std::set<Impl>(op->forms.begin(), op->forms.end()).size(), op->forms.size());
    EXPECT_TRUE(op->has(Impl::Reference) && op->forms.back() == Impl::Reference) << op->name;
    EXPECT_EQ(&ops::find_op(op->name), op);
  }
}

TEST(Op, EveryCaseHasAReferenceThatTakesIt) {
  const at::NoGradGuard no_grad;
  for (const ops::Op* op : ops::all_ops())
    for (const ops::OpCase& c : op->cases ? op->cases() : std::vector<ops::OpCase>{})
      EXPECT_TRUE(c.takes(Impl::Reference, at::kCPU)) << op->name << ' ' << c.name;
}

TEST(Impls, EqualChoicesHaveEqualNames) {
  EXPECT_EQ(parse_impls("auto").name(), "auto");
  EXPECT_EQ(parse_impls("scan=auto,norm=auto").name(), "auto");
  EXPECT_EQ(parse_impls("scan=tiled").name(), "tiled");
  EXPECT_EQ(parse_impls("norm=fast").name(), "norm=fast");
  EXPECT_EQ(parse_impls("nll=aten,norm=reference,scan=step").name(),
            parse_impls("scan=step,norm=reference,nll=aten").name());
  EXPECT_EQ(parse_impls("nll=aten,scan=step").name(), "scan=step,nll=aten");
}

TEST(Impls, WhatIsWrongSaysHow) {
  EXPECT_EQ(kind_of("quick"), Error::Kind::Usage);
  EXPECT_EQ(kind_of("norm=quick"), Error::Kind::Usage);
  EXPECT_EQ(kind_of("norms=fast"), Error::Kind::Usage);
  EXPECT_EQ(kind_of("norm=fast,aten"), Error::Kind::Usage);
  EXPECT_EQ(kind_of("norm=fast,norm=aten"), Error::Kind::Usage);
  EXPECT_EQ(kind_of(""), Error::Kind::Usage);
  EXPECT_EQ(kind_of("norm=tiled"), Error::Kind::Unsupported);
  EXPECT_EQ(kind_of("few_rows=cuda"), Error::Kind::Unsupported);
  EXPECT_EQ(kind_of("fast"), Error::Kind::Unsupported) << "the recurrence has none";
}

TEST(Forcing, TheFormRunsUntilItIsGivenBack) {
  const at::NoGradGuard no_grad;
  at::manual_seed(5);
  const Tensor x = at::randn({2, 3, 300}), weight = at::randn({300});
  const auto norm = [&] { return ops::rms_norm(x, weight, 1e-5, at::kFloat); };
  const Tensor chosen = norm();
  {
    const ops::Forcing forcing(parse_impls("norm=reference"));
    EXPECT_TRUE(bitwise_equal(norm(), kernels::norm_cpu({.x = x, .weight = weight, .eps = 1e-5})));
  }
  EXPECT_TRUE(bitwise_equal(norm(), chosen));
  EXPECT_FALSE(bitwise_equal(chosen, kernels::norm_cpu({.x = x, .weight = weight, .eps = 1e-5})))
      << "then the above shows nothing";
}

TEST(Forcing, AFormThatDoesNotTakeTheInputsIsRefused) {
  const at::NoGradGuard no_grad;
  const Tensor x = at::randn({2, 3, 300}), weight = at::randn({300});
  const ops::Forcing forcing(parse_impls("norm=fast"));
  try {
    ops::layer_norm(x, weight, weight, 1e-5, at::kFloat);
    ADD_FAILURE() << "the fast form has no layer norm";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Unsupported);
    EXPECT_NE(std::string(error.what()).find("those that do: aten, reference"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace stuffed
