#include "stuffed/io/regular_file.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "stuffed/io/json.h"
#include "stuffed/io/tensor_file.h"
#include "support/files.h"

namespace stuffed::io {
namespace {

using testing::expect_error;
using testing::TempFolder;

TEST(RegularFile, IsReadWhole) {
  const TempFolder folder;
  const auto path = folder.write("a", std::string_view("one\0two", 7));
  EXPECT_EQ(read_regular_file(path), std::string("one\0two", 7));
  EXPECT_EQ(RegularFile(path).size(), 7);
  std::filesystem::create_symlink(path, folder / "link");
  EXPECT_EQ(read_regular_file(folder / "link").size(), 7u);
  EXPECT_EQ(read_regular_file(folder.write("empty", "")), "");
  expect_error(Error::Kind::Input, {"/a", "7 bytes", "more than the 6"},
               [&] { read_regular_file(path, 6); });
  expect_error(Error::Kind::Input, {"/absent", "No such file"},
               [&] { read_regular_file(folder / "absent"); });
  expect_error(Error::Kind::Input, {"cannot be read"},
               [&] { read_regular_file(folder / std::string(5000, 'x')); });
}

/// Pipes that nobody writes to, devices that never end, sockets and folders: no reader may wait for
/// them or read them.
TEST(RegularFile, NothingElseIsOpened) {
  const TempFolder folder;
  const auto pipe = folder / "pipe", socket = folder / "socket";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  const int listener = ::socket(AF_UNIX, SOCK_STREAM, 0);
  sockaddr_un address{.sun_family = AF_UNIX, .sun_path = {}};
  ASSERT_LT(socket.string().size(), sizeof address.sun_path);
  socket.string().copy(address.sun_path, socket.string().size());
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  for (const auto& [path, kind] : {std::pair<std::filesystem::path, std::string>{pipe, "a pipe"},
                                   {socket, "a socket"},
                                   {"/dev/zero", "a device"},
                                   {"/dev/null", "a device"},
                                   {folder.path(), "a folder"}}) {
    SCOPED_TRACE(kind);
    const std::string name = path.string(), wanted = "regular file";
    expect_error(Error::Kind::Input, {name, kind, wanted}, [&] { check_regular_file(path); });
    expect_error(Error::Kind::Input, {name, kind, wanted}, [&] { read_regular_file(path); });
    expect_error(Error::Kind::Input, {name, kind, wanted}, [&] { read_json(path); });
    expect_error(Error::Kind::Input, {name, kind, wanted}, [&] { TensorFile::open(path); });
  }
  ::close(listener);
}

}  // namespace
}  // namespace stuffed::io
