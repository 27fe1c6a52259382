// Numbers as a screen can show them: curves thinned, grids packed.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "stuffed/io/json.h"

namespace stuffed::report {

/// Which of n values over equally spaced positions a logarithmic axis of `bins` columns shows: of
/// each column the smallest and the largest, and those that are not finite next to others; always
/// the first and the last. Ascending.
std::vector<size_t> thinned(const std::vector<double>& values, size_t bins = 200);

/// At most `most` of n places, nearly equally spaced on a logarithmic axis, the last one included.
std::vector<size_t> spaced(size_t n, size_t most);

/// Numbers to six digits, null for those that are not finite.
io::json array_of(const std::vector<double>& values);
io::json array_of(const std::vector<double>& values, const std::vector<size_t>& which);

/// Numbers in 16 bits each: {"low","high","log","data"}, base64 of little-endian q with the value
/// low + (high - low) q / 65534, or ten to its power if `log`; 65535 is not finite. `log` is
/// dropped where a value is not positive.
io::json packed(const std::vector<double>& values, bool log);

}  // namespace stuffed::report
