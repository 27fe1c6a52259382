#include "stuffed/train/launch.h"

#include <charconv>
#include <optional>

#include "stuffed/core/error.h"

namespace stuffed::train {

namespace {

constexpr const char* kHowToStart =
    "start with `torchrun --no-python --nproc-per-node 2 stuffed train ... --distributed` or, "
    "under "
    "Slurm, `srun stuffed train ... --distributed`";

class Variables {
 public:
  explicit Variables(const std::function<const char*(const char* name)>& variable)
      : variable_(variable) {}

  std::optional<std::string> find(const char* name) const {
    const char* const value = variable_(name);
    return value != nullptr && *value != '\0' ? std::optional<std::string>(value) : std::nullopt;
  }
  std::string text(const char* name) const {
    const auto value = find(name);
    check(value.has_value(), Error::Kind::Usage, "--distributed: {} is not set; {}", name,
          kHowToStart);
    return *value;
  }
  int number(const char* name, int least, int most) const {
    const std::string value = text(name);
    int read = 0;
    const char* const end = value.data() + value.size();
    const auto [stop, error] = std::from_chars(value.data(), end, read);
    check(error == std::errc() && stop == end && read >= least && read <= most, Error::Kind::Usage,
          "--distributed: {} is '{}', expected a number from {} to {}; {}", name, value, least,
          most, kHowToStart);
    return read;
  }

 private:
  const std::function<const char*(const char* name)>& variable_;
};

constexpr int kMostRanks = 1 << 20, kMostPorts = 65535;

void read_numbers(const Variables& variables,
                  const char* rank,
                  const char* size,
                  const char* local_rank,
                  Launch& launch) {
  launch.size = variables.number(size, 1, kMostRanks);
  launch.rank = variables.number(rank, 0, launch.size - 1);
  launch.local_rank = variables.number(local_rank, 0, launch.size - 1);
}

Launch of_torchrun(const Variables& variables) {
  Launch launch;
  read_numbers(variables, "RANK", "WORLD_SIZE", "LOCAL_RANK", launch);
  launch.address = variables.text("MASTER_ADDR");
  launch.port = variables.number("MASTER_PORT", 1, kMostPorts);
  launch.is_served = variables.find("TORCHELASTIC_USE_AGENT_STORE") == "True";
  launch.attempt = variables.find("TORCHELASTIC_RESTART_COUNT").value_or("0");
  return launch;
}

/// The same for all tasks of a job, another for another job or step of the host. Below those that Linux
/// gives to whoever asks for any port.
int port_of_job(const Variables& variables) {
  constexpr uint64_t kFirst = 12'000, kCount = 20'000, kStep = 1'009;
  const auto number = [](const std::string& text) {
    uint64_t read = 0;
    std::from_chars(text.data(), text.data() + text.size(), read);
    return read;
  };
  const uint64_t job = number(variables.text("SLURM_JOB_ID"));
  const uint64_t step = number(variables.find("SLURM_STEP_ID").value_or("0"));
  return static_cast<int>(kFirst + (job + step % kCount * kStep) % kCount);
}

/// That of this step, which may run on a part of the job's hosts.
std::string first_host_of_step(const Variables& variables) {
  for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST"})
    if (const auto list = variables.find(name))
      return first_host(*list);
  return variables.text("SLURM_LAUNCH_NODE_IPADDR");
}

Launch of_slurm(const Variables& variables) {
  Launch launch;
  read_numbers(variables, "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", launch);
  const auto address = variables.find("MASTER_ADDR");
  launch.address = address ? *address : first_host_of_step(variables);
  launch.port = variables.find("MASTER_PORT") ? variables.number("MASTER_PORT", 1, kMostPorts)
                                              : port_of_job(variables);
  return launch;
}

}  // namespace

std::string first_host(const std::string& list) {
  const size_t bracket = list.find('['), comma = list.find(',');
  if (bracket == list.npos || comma < bracket)
    return list.substr(0, comma);
  const size_t end = list.find_first_of(",-]", bracket);
  return list.substr(0, bracket) + list.substr(bracket + 1, end - bracket - 1);
}

Launch read_launch(const std::function<const char*(const char* name)>& variable) {
  const Variables variables(variable);
  if (variables.find("RANK"))
    return of_torchrun(variables);
  if (variables.find("SLURM_PROCID"))
    return of_slurm(variables);
  fail(Error::Kind::Usage, "--distributed: neither RANK nor SLURM_PROCID is set; {}", kHowToStart);
}

}  // namespace stuffed::train
