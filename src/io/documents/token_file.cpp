#include "stuffed/io/token_file.h"

#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

namespace stuffed::io {

namespace {

std::string fields(const std::map<std::string, std::string>& metadata,
                   int64_t documents,
                   int64_t length,
                   uint64_t bytes) {
  const nlohmann::ordered_json all = {
      {"__metadata__", metadata},
      {"tokens",
       {{"dtype", "I64"}, {"shape", {documents, length}}, {"data_offsets", {uint64_t{0}, bytes}}}}};
  return all.dump();
}

}  // namespace

TokenFileWriter::TokenFileWriter(const std::filesystem::path& path,
                                 std::map<std::string, std::string> metadata)
    : metadata_(std::move(metadata)), file_(path) {
  file_.write(header(0, 0));
}

std::string TokenFileWriter::header(int64_t documents, int64_t length) const {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  std::string text = fields(metadata_, documents, length,
                            static_cast<uint64_t>(documents * length) * sizeof(int64_t));
  const size_t most = fields(metadata_, kMost, kMost, std::numeric_limits<uint64_t>::max()).size();
  const uint64_t size = (most + 7) / 8 * 8;  // the tokens are aligned
  text.append(size - text.size(), ' ');
  std::string size_bytes(sizeof size, '\0');
  std::memcpy(size_bytes.data(), &size, sizeof size);
  return size_bytes + text;
}

void TokenFileWriter::add(std::span<const int32_t> ids) {
  const std::vector<int64_t> wide(ids.begin(), ids.end());
  file_.write(wide.data(), wide.size() * sizeof(int64_t));
  tokens_ += static_cast<int64_t>(ids.size());
}

int64_t TokenFileWriter::end_document() {
  ++documents_;
  length_ = std::exchange(tokens_, 0);
  return length_;
}

void TokenFileWriter::commit() {
  file_.rewrite_beginning(header(documents_, length_));
  file_.commit();
}

}  // namespace stuffed::io
