#include "src/sweep/worker.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stuffed/core/error.h"

extern char** environ;

namespace stuffed::sweep {

namespace {

struct Pipe {
  int read = -1, write = -1;
};

Pipe make_pipe() {
  int ends[2] = {-1, -1};
  const bool made = ::pipe2(ends, O_CLOEXEC) == 0;
  check(made, Error::Kind::Output, "a worker cannot be started: {}", std::strerror(errno));
  return {ends[0], ends[1]};
}

std::vector<std::string> environment_with(const std::string& gpu) {
  const std::string name = "CUDA_VISIBLE_DEVICES=";
  std::vector<std::string> variables;
  for (char** variable = environ; *variable != nullptr; ++variable)
    if (gpu.empty() || std::strncmp(*variable, name.c_str(), name.size()) != 0)
      variables.emplace_back(*variable);
  if (!gpu.empty())
    variables.push_back(name + gpu);
  return variables;
}

std::vector<char*> pointers_to(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts)
    pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// No signal of the owner's mask, and a process group of its own: what the terminal sends reaches
/// the owner alone, which then stops its workers.
pid_t spawn(std::vector<std::string> program, const std::string& gpu, int input, int output) {
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
  std::vector<std::string> environment = environment_with(gpu);
  pid_t process = -1;
  const int error = ::posix_spawn(&process, program.front().c_str(), &actions, &attributes,
                                  pointers_to(program).data(), pointers_to(environment).data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  check(error == 0, Error::Kind::Output, "{}: cannot be started: {}", program.front(),
        std::strerror(error));
  return process;
}

}  // namespace

Worker::Worker(const std::vector<std::string>& program, const std::string& gpu) {
  const Pipe to = make_pipe(), from = make_pipe();
  to_ = to.write;
  from_ = from.read;
  ::fcntl(from_, F_SETFL, O_NONBLOCK);
  try {
    process_ = spawn(program, gpu, to.read, from.write);
  } catch (...) {
    for (const int end : {to.read, to.write, from.read, from.write})
      ::close(end);
    throw;
  }
  ::close(to.read);
  ::close(from.write);
}

Worker::~Worker() {
  wait();
  ::close(from_);
}

void Worker::send(const io::json& line) const {
  const std::string text = line.dump(-1, ' ', false, io::json::error_handler_t::replace) + "\n";
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t n = ::write(to_, text.data() + sent, text.size() - sent);
    if (n < 0 && errno != EINTR)
      return;  // it is gone, which reading will tell
    sent += static_cast<size_t>(std::max<ssize_t>(n, 0));
  }
}

bool Worker::read() {
  std::array<char, 65536> block;
  for (;;) {
    const ssize_t n = ::read(from_, block.data(), block.size());
    if (n > 0)
      pending_.append(block.data(), static_cast<size_t>(n));
    else if (n == 0)
      return false;
    else if (errno != EINTR)
      return errno == EAGAIN;
  }
}

std::optional<io::json> Worker::next() {
  const size_t end = pending_.find('\n');
  if (end == pending_.npos)
    return {};
  const std::string line = pending_.substr(0, end);
  pending_.erase(0, end + 1);
  const io::json parsed = io::json::parse(line, nullptr, /*allow_exceptions=*/false);
  return parsed.is_object() ? parsed : io::json::object();  // not of ours: passed over
}

void Worker::stop() {
  if (to_ >= 0)
    ::close(to_);
  to_ = -1;
}

std::string Worker::wait() {
  if (process_ < 0)
    return "";
  stop();
  int status = 0;
  while (::waitpid(process_, &status, 0) < 0 && errno == EINTR) {
  }
  process_ = -1;
  if (!WIFSIGNALED(status))
    return fmt::format("ended with exit code {}", WEXITSTATUS(status));
  was_killed_ = WTERMSIG(status) == SIGKILL;
  const char* const name = sigabbrev_np(WTERMSIG(status));
  return fmt::format("was killed by SIG{}", name ? name : "?");
}

}  // namespace stuffed::sweep
