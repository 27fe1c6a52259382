#include "stuffed/models/shapes.h"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <gtest/gtest.h>

#include "kernels/common/testing.h"
#include "stuffed/core/error.h"
#include "stuffed/models/family.h"
#include "stuffed/models/one_token.h"

namespace stuffed {
namespace {

struct Counter : ParameterVisitor {
  void parameter(const std::string&, Tensor&, std::vector<int64_t> shape, Role) override {
    int64_t elements = 1;
    for (const int64_t size : shape)
      elements *= size;
    count += elements;
  }
  int64_t count = 0;
};

int64_t parameters_of(const std::string& shape) {
  Counter counter;
  shape_skeleton(shape)->visit(counter);
  return counter.count;
}

TEST(Shapes, HaveTheParametersOfThePublishedFiles) {
  // Bytes of the published weight files over bytes of an element.
  for (const auto& [name, elements] : {std::pair{"mamba2-130m", 258e6 / 2},
                                       {"mamba2-370m", 737e6 / 2},
                                       {"mamba2-780m", 1.56e9 / 2},
                                       {"mamba2-1.3b", 2.69e9 / 2},
                                       {"mamba2-2.7b", 5.41e9 / 2},
                                       {"mamba1-130m", 516.6e6 / 4},
                                       {"mamba1-2.8b", 11.07e9 / 4},
                                       {"rwkv6-1.6b", 3.2e9 / 2},
                                       {"rwkv6-3b", 6.2e9 / 2},
                                       {"hgrn2-1.3b", 2.73e9 / 2}})
    EXPECT_NEAR(static_cast<double>(parameters_of(name)) / elements, 1, 0.005) << name;
}

TEST(Shapes, HaveTheStatesOfThePublishedModels) {
  for (const auto& [name, elements] : {std::pair{"mamba2-130m", 4'718'592},
                                       {"mamba2-370m", 12'582'912},
                                       {"mamba2-2.7b", 41'943'040},
                                       {"rwkv5-1.5b", 3'145'728},
                                       {"rwkv6-1.6b", 3'145'728},
                                       {"hgrn2-1.3b", 6'291'456},
                                       {"mamba1-130m", 589'824},
                                       {"mamba1-2.8b", 5'242'880}})
    EXPECT_EQ(shape_skeleton(name)->recurrent_elements(), elements) << name;
}

TEST(Shapes, EveryNameIsRecognisedAsItsFamily) {
  for (const std::string& name : shape_names())
    EXPECT_EQ(shape_skeleton(name)->config().family, name.substr(0, name.find('-'))) << name;
  try {
    shape_skeleton("mamba3-1b");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Usage);
    EXPECT_NE(std::string(error.what()).find("mamba2-1.3b"), std::string::npos);
  }
}

TEST(Shapes, EveryFamilyRunsTinyAndHasTheWidthsOfOneOfItsSizes) {
  for (const Family* family : families()) {
    const auto has_widths = [&](const ModelSize& size) {
      const auto config = shape_skeleton(fmt::format("{}-{}", family->name, size.name))->config();
      return config.heads == family->widths.heads && config.key_width == family->widths.key_width &&
             config.value_width == family->widths.value_width;
    };
    EXPECT_TRUE(std::ranges::any_of(family->sizes, has_widths)) << family->name;
    EXPECT_NO_THROW(shape_skeleton(fmt::format("{}-tiny", family->name)));
  }
}

TEST(Families, AskOfTheRecurrenceWhatTheirRowsSay) {
  at::NoGradGuard no_grad;
  for (const Family* family : families()) {
    const auto model = random_model(fmt::format("{}-tiny", family->name), 1);
    ScanInputs in;
    Watch watch([&](Where, const ScanInputs& inputs, const LayerState&) { in = inputs; });
    State state = model->initial_state(1);
    model->forward(at::arange(3, at::kLong).view({1, 3}), state,
                   *build_recurrence({.mitigations = {}, .observer = &watch}));
    const ScanTerms& terms = family->terms;
    EXPECT_EQ(in.v_scale.has_value(), terms.has_v_scale) << family->name;
    EXPECT_EQ(in.bonus.has_value(), terms.has_bonus) << family->name;
    EXPECT_EQ(in.erase.has_value(), terms.has_erase) << family->name;
    EXPECT_EQ(in.q.stride(2) == 0 && in.k.stride(2) == 0, terms.shares_keys) << family->name;
    EXPECT_EQ(in.factored_decay.has_value(), terms.decay == DecayForm::Factored) << family->name;
    if (!in.factored_decay) {
      EXPECT_EQ(in.log_decay.size(3) == 1, terms.decay == DecayForm::PerHead) << family->name;
      EXPECT_EQ(in.log_decay.stride(1) == 0, terms.decay == DecayForm::Constant) << family->name;
      const double apart = (in.k + in.log_decay.exp() - 1).abs().max().item<double>();
      EXPECT_EQ(apart < 1e-5, terms.gate == GateKind::Forget) << family->name;
    }
  }
}

TEST(Families, AnUnknownNameIsAUsageErrorThatListsTheKnown) {
  try {
    find_family("lstm");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), Error::Kind::Usage);
    for (const std::string& name : family_names())
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos);
  }
}

TEST(Shapes, RandomModelsAreFiniteAndAFunctionOfTheSeed) {
  at::NoGradGuard no_grad;
  const Tensor tokens = at::arange(0, 100).remainder(97).view({1, 100});
  for (const std::string& family : family_names()) {
    const std::string name = family + "-tiny";
    const auto hidden = [&](uint64_t seed, at::ScalarType dtype) {
      const auto model = random_model(name, seed, {.dtype = dtype});
      State state = model->initial_state(1);
      const Tensor out = model->forward(tokens, state).hidden;
      for (const LayerState& layer : state.layers)
        EXPECT_TRUE(layer.recurrent.isfinite().all().item<bool>()) << name;
      return out;
    };
    const Tensor first = hidden(1, at::kFloat);
    EXPECT_TRUE(first.isfinite().all().item<bool>()) << name;
    EXPECT_TRUE(testing::bitwise_equal(hidden(1, at::kFloat), first)) << name;
    EXPECT_FALSE(testing::bitwise_equal(hidden(2, at::kFloat), first)) << name;
    EXPECT_EQ(hidden(1, at::kBFloat16).scalar_type(), at::kBFloat16);
  }
}

}  // namespace
}  // namespace stuffed
