// SHA-256, for provenance.
#pragma once
#include <filesystem>
#include <string>
#include <string_view>

namespace stuffed {

std::string sha256(std::string_view bytes);                  // 64 hex digits
std::string sha256_file(const std::filesystem::path& path);  // throws Input if unreadable

/// Incremental form.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(const void* data, size_t bytes);
  std::string hex();               // finishes; call once
  std::string hex_so_far() const;  // goes on

 private:
  void* context_;
};

}  // namespace stuffed
