// Where the tokenizer tests find the published files.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

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

/// Of every kind, as load_tokenizer() takes them; the published ones that are there.
inline std::vector<std::string> tokenizer_files() {
  const std::filesystem::path data =
      std::filesystem::path(STUFFED_SOURCE_DIR) / "tests" / "data" / "tokenizers";
  std::vector<std::string> files = {"bytes", (data / "small_neox.json").string(),
                                    (data / "small_spm.json").string()};
  for (const std::string& published :
       {published_file("20B_tokenizer.json"), package_file("rwkv/rwkv_vocab_v20230424.txt"),
        package_file("mistral_common/data/tokenizer.model.v1"),
        package_file("mistral_common/data/mistral_instruct_tokenizer_240323.model.v3")})
    if (!published.empty())
      files.push_back(published);
  return files;
}

inline std::string repeat(const std::string& text, int times) {
  std::string out;
  for (int i = 0; i < times; ++i)
    out += text;
  return out;
}

}  // namespace stuffed::testing
