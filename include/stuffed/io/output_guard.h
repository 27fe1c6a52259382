// No output of a run may take the place of a file that the run reads, or of another of its outputs.
#pragma once
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

namespace stuffed::io {

class TensorFile;

/// Files are compared by device and inode behind all links, not by name.
class OutputGuard {
 public:
  /// The run reads `path`, given by `flag` ("--text"); "-" is standard input. What is no file
  /// ("bytes", "") is nothing to guard.
  void reads(std::string_view flag, const std::filesystem::path& path);
  /// The run reads a model: its weights, shards and configuration, and a tokenizer beside them.
  void reads_model(std::string_view flag, const std::filesystem::path& path);
  /// The run writes `path`; "" and "-" are no file. Call once all inputs are known.
  /// Errors  Usage if it is an input, another output, or where standard output or error goes;
  ///         Output if it is a device
  void writes(std::string_view flag, const std::filesystem::path& path);

 private:
  struct File {
    std::string flag;
    std::filesystem::path path;  // behind its links; decides where there is no file yet
    dev_t device = 0;
    ino_t inode = 0;
    bool is_there = false;

    bool is(const File& other) const;
  };
  static File look_at(std::string_view flag, const std::filesystem::path& path);
  void add_input(std::string_view flag, const std::filesystem::path& path);

  std::vector<File> inputs_, outputs_;
};

/// "-" for /dev/stdout and its other names: opened anew it would be written from its start, over
/// what was printed. Other paths as they are.
/// Errors  Usage for standard error's names
std::string output_name(const std::string& path);

/// May a safetensors file be written there? Only where there is nothing, or one that `is_ours`
/// knows as the same kind.
/// Errors  Input if something else is there; Output if that is no file
void check_place(const std::filesystem::path& path,
                 const std::function<bool(const TensorFile&)>& is_ours);

/// Is a safetensors file there whose metadata has `key`?
bool has_metadata(const std::filesystem::path& path, const std::string& key);

}  // namespace stuffed::io
