#include "stuffed/io/record_fields.h"

#include <algorithm>

#include "stuffed/core/error.h"

namespace stuffed::io {

namespace {

std::string shortened(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 60);
}

int64_t integer_in(const json& value, const char* field, int64_t least, int64_t most) {
  check(value.is_number_integer(), Error::Kind::Input, "{} is {}, expected an integer", field,
        shortened(value));
  const bool fits = !value.is_number_unsigned() || value.get<uint64_t>() <= uint64_t(kMostTokens);
  const int64_t number = fits ? value.get<int64_t>() : most + 1;
  check(number >= least && number <= most, Error::Kind::Input, "{} is {}, expected {} to {}", field,
        shortened(value), least, most);
  return number;
}

void check_that_number(const json& value, const char* field) {
  check(value.is_number() || value.is_null(), Error::Kind::Input, "{} holds {}, expected numbers",
        field, value.type_name());
}

void check_that_numbers(const json& value, const char* field) {
  if (!value.is_array())
    return check_that_number(value, field);
  for (const json& inner : value)
    check_that_numbers(inner, field);
}

}  // namespace

std::string_view reason_of(const json::exception& error) {
  const std::string_view what = error.what();
  return what.substr(std::min(what.find("] ") + 2, what.size()));
}

int64_t read_integer(const json& record, const char* field, int64_t least, int64_t most) {
  return integer_in(record.at(field), field, least, most);
}

std::vector<int64_t> read_integers(const json& record,
                                   const char* field,
                                   int64_t least,
                                   int64_t most) {
  const json& values = record.at(field);
  check(values.is_array(), Error::Kind::Input, "{} is {}, expected integers", field,
        shortened(values));
  std::vector<int64_t> numbers;
  for (const json& value : values)
    numbers.push_back(integer_in(value, field, least, most));
  return numbers;
}

bool read_flag(const json& record, const char* field) {
  const json& value = record.at(field);
  check(value.is_boolean(), Error::Kind::Input, "{} is {}, expected true or false", field,
        shortened(value));
  return value.get<bool>();
}

std::string read_text(const json& record, const char* field) {
  const json& value = record.at(field);
  check(value.is_string(), Error::Kind::Input, "{} is {}, expected text", field, shortened(value));
  return value.get<std::string>();
}

const json& read_array(const json& record, const char* field, size_t size) {
  const json& values = record.at(field);
  check(values.is_array() && values.size() == size, Error::Kind::Input,
        "{} has {} elements, expected {}", field, values.is_array() ? values.size() : 0, size);
  return values;
}

void check_number(const json& record, const char* field) {
  check_that_number(record.at(field), field);
}

void check_numbers(const json& record, const char* field, size_t size) {
  for (const json& value : read_array(record, field, size))
    check_that_number(value, field);
}

void check_nested_numbers(const json& record, const char* field) {
  check_that_numbers(record.at(field), field);
}

}  // namespace stuffed::io
