// Fields of records that are read back from a journal, which somebody may have edited since.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "stuffed/io/json.h"

namespace stuffed::io {

inline constexpr int64_t kMostTokens = int64_t{1} << 40;

/// What the library found wrong, without its name for that. Lives as long as `error`.
std::string_view reason_of(const json::exception& error);

/// Errors of all of these  Input, naming the field, or json::exception if it is missing
int64_t read_integer(const json& record,
                     const char* field,
                     int64_t least = 0,
                     int64_t most = kMostTokens);
bool read_flag(const json& record, const char* field);
std::string read_text(const json& record, const char* field);
/// An array of any size.
std::vector<int64_t> read_integers(const json& record,
                                   const char* field,
                                   int64_t least = 0,
                                   int64_t most = kMostTokens);
const json& read_array(const json& record, const char* field, size_t size);
/// Null stands for what is not finite.
void check_number(const json& record, const char* field);
/// An array of numbers and nulls.
void check_numbers(const json& record, const char* field, size_t size);
/// Arrays of numbers, of arrays of numbers, and so on.
void check_nested_numbers(const json& record, const char* field);

}  // namespace stuffed::io
