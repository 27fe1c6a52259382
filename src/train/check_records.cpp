#include "src/train/check_records.h"

#include <algorithm>
#include <cmath>

#include "stuffed/core/error.h"
#include "stuffed/io/record_fields.h"

namespace stuffed::train {

namespace {

/// Null is what is not finite, which the record then says.
void check_measured(const io::json& record, const char* field) {
  io::check_number(record, field);
  const io::json& value = record.at(field);
  const bool owns_up = record.contains("finite") && !io::read_flag(record, "finite");
  check(value.is_null() ? owns_up : value.get<double>() >= 0, Error::Kind::Input, "{} is {}", field,
        value.dump());
}

void check_step(const io::json& record, int64_t step, const TrainConfig& config) {
  const int64_t tokens = step * config.batch * config.length;
  check(record.at("tokens") == tokens, Error::Kind::Input, "tokens is {}, expected {}",
        record.at("tokens").dump(), tokens);
  for (const char* field : {"loss_nats", "gradient_norm"})
    check_measured(record, field);
  const io::json& rate = record.at("learning_rate");
  const double expected = learning_rate(config.schedule, step - 1);
  check(rate.is_number() && std::abs(rate.get<double>() - expected) <= 1e-9 * config.schedule.peak,
        Error::Kind::Input, "learning_rate is {}, expected {}", rate.dump(), expected);
}

void check_validation(const io::json& record) {
  check_measured(record, "within_length_nats");
  if (record.contains("beyond_length_nats"))
    check_measured(record, "beyond_length_nats");
  if (!record.contains("position_ends"))  // of an older build
    return;
  const auto ends = io::read_integers(record, "position_ends", 1);
  io::check_numbers(record, "by_position_nats", ends.size());
}

/// A loss that is not finite is one, too.
void check_spike(const io::json& record) {
  check_measured(record, "loss_nats");
  check(record.at("expected_nats").is_number(), Error::Kind::Input, "expected_nats is {}",
        record.at("expected_nats").dump());
}

}  // namespace

std::string step_key(int64_t step) {
  return fmt::format("step={}", step);
}

std::string validation_key(int64_t step, std::string_view source) {
  return fmt::format("validation/step={}/{}", step, source);
}

std::string spike_key(int64_t step) {
  return fmt::format("spike/step={}", step);
}

void check_record(const io::json& record, const TrainConfig& config) {
  const std::string key = record.at("key");
  const int64_t step = io::read_integer(record, "step", 1, config.schedule.steps);
  if (key == step_key(step))
    return check_step(record, step, config);
  if (key == spike_key(step))
    return check_spike(record);
  const std::string source = io::read_text(record, "source");
  const bool is_known = std::ranges::any_of(
      config.data.mix, [&](const auto& entry) { return source_name(entry.first) == source; });
  check(is_known && key == validation_key(step, source), Error::Kind::Input, "'{}' is no key of it",
        key);
  check_validation(record);
}

}  // namespace stuffed::train
