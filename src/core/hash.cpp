#include "stuffed/core/hash.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <openssl/evp.h>
#include <vector>

#include "stuffed/core/error.h"
#include "stuffed/core/interrupt.h"

namespace stuffed {

namespace {
EVP_MD_CTX* md(void* context) {
  return static_cast<EVP_MD_CTX*>(context);
}
}  // namespace

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
  check(context_ != nullptr && EVP_DigestInit_ex(md(context_), EVP_sha256(), nullptr) == 1,
        Error::Kind::Internal, "libcrypto offers no SHA-256");
}

Sha256::~Sha256() {
  EVP_MD_CTX_free(md(context_));
}

void Sha256::update(const void* data, size_t bytes) {
  EVP_DigestUpdate(md(context_), data, bytes);
}

std::string Sha256::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned length = 0;
  EVP_DigestFinal_ex(md(context_), digest.data(), &length);
  return fmt::format("{:02x}", fmt::join(digest.data(), digest.data() + length, ""));
}

std::string Sha256::hex_so_far() const {
  Sha256 copy;
  EVP_MD_CTX_copy_ex(md(copy.context_), md(context_));
  return copy.hex();
}

std::string sha256(std::string_view bytes) {
  Sha256 hash;
  hash.update(bytes.data(), bytes.size());
  return hash.hex();
}

std::string sha256_file(const std::filesystem::path& path) {
  std::error_code ignored;
  check(!std::filesystem::is_directory(path, ignored), Error::Kind::Input,
        "{}: is a folder, expected a file", path.string());
  check(!std::filesystem::is_other(path, ignored), Error::Kind::Input,
        "{}: is a pipe or a device, expected a file", path.string());
  std::ifstream file(path, std::ios::binary);
  check(file.good(), Error::Kind::Input, "{}: cannot be read: {}", path.string(),
        std::strerror(errno));
  Sha256 hash;
  std::vector<char> block(size_t{1} << 20);
  while (file.read(block.data(), static_cast<std::streamsize>(block.size())) || file.gcount() > 0) {
    stop_if_interrupted();  // weights of many gigabytes take minutes
    hash.update(block.data(), static_cast<size_t>(file.gcount()));
  }
  check(!file.bad(), Error::Kind::Input, "{}: reading failed", path.string());
  return hash.hex();
}

}  // namespace stuffed
