// State dicts as pickles, opcode by opcode, with every field a test may want to falsify.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "zip_writer.h"

namespace stuffed::testing {

/// A number as a pickle's LONG1.
inline std::string number(int64_t value) {
  std::string text = "\x8a\x08";
  put(text, value);
  return text;
}

/// A string.
inline std::string text(const std::string& value) {
  std::string result = "X";
  put(result, static_cast<uint32_t>(value.size()));
  return result + value;
}

inline std::string tuple(const std::vector<int64_t>& values) {
  std::string result = "(";
  for (const int64_t value : values)
    result += number(value);
  return result + "t";
}

/// One tensor: which elements of which storage.
struct View {
  std::string name = "x", storage_class = "torch\nFloatStorage\n", key = "0";
  int64_t count = 4, offset = 0;
  std::vector<int64_t> size = {2, 2}, stride = {2, 1};
};

/// Its name and the call that rebuilds it.
inline std::string item(const View& view) {
  return text(view.name) + "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "c" +
         view.storage_class + text(view.key) + text("cpu") + number(view.count) + "tQ" +
         number(view.offset) + tuple(view.size) + tuple(view.stride) +
         "\x89"
         "ccollections\nOrderedDict\n)RtR";
}

/// The dict of such items.
inline std::string pickle(const std::string& items) {
  return "\x80\x02}(" + items + "u.";
}

}  // namespace stuffed::testing
