// Where the tokenizer tests find the published files.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <string>

namespace stuffed::testing {

/// A file of an installed Python package, in the project's virtual environment or the one in use;
/// "" if nowhere.
inline std::string package_file(const std::string& inside_site_packages) {
  namespace fs = std::filesystem;
  std::vector<fs::path> environments{fs::path(STUFFED_SOURCE_DIR) / ".venv"};
  if (const char* active = std::getenv("VIRTUAL_ENV"))
    environments.emplace_back(active);
  for (const fs::path& environment : environments) {
    std::error_code missing;
    for (const auto& python : fs::directory_iterator(environment / "lib", missing)) {
      const fs::path file = python.path() / "site-packages" / inside_site_packages;
      if (fs::is_regular_file(file))
        return file.string();
    }
  }
  return "";
}

/// A published tokenizer that no package contains: in $STUFFED_TOKENIZERS; "" if it is not there.
inline std::string published_file(const std::string& name) {
  const char* folder = std::getenv("STUFFED_TOKENIZERS");
  const std::filesystem::path file = std::filesystem::path(folder ? folder : "") / name;
  return folder && std::filesystem::is_regular_file(file) ? file.string() : "";
}

inline std::string repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i)
    out += text;
  return out;
}

}  // namespace stuffed::testing
