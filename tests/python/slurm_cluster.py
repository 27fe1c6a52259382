"""A Slurm cluster of two logical nodes on this machine, with daemons, keys and ports of its own."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo")
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def why_not() -> str:
    """Why no cluster can be started here; empty if one may be."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"slurm-wlm is not installed ({', '.join(missing)})"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root alone"


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class CannotStart(Exception):
    """The daemons did not come up; says what they wrote."""


class Cluster:
    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen] = {}
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))
        }
        self.environment.update(SLURM_CONF=str(folder / "slurm.conf"), PATH=PATH, OMP_NUM_THREADS="1")

    def __enter__(self) -> "Cluster":
        for name in ("state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir()
        self.write_config()
        try:
            self.start_munge()
            self.start("slurmctld", "slurmctld", "-D")
            for node in NODES:
                self.start_node(node)
            self.wait_for(lambda: self.states() == dict.fromkeys(NODES, "idle"), 30, "both nodes to be idle")
        except (OSError, TimeoutError) as error:
            logs = "".join(path.read_text(errors="replace")[-2000:] for path in sorted(self.folder.glob("*.log")))
            self.__exit__()
            raise CannotStart(f"{error}\n{logs}") from error
        return self

    def __exit__(self, *_: object) -> None:
        for node in NODES:
            self.kill_node(node)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def write_config(self) -> None:
        controller, *nodes = free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        lines = [
            "ClusterName=test",
            f"SlurmctldHost={host}(127.0.0.1)",
            f"SlurmctldPort={controller}",
            "SlurmUser=root",
            "SlurmdUser=root",
            # A job that is put back into the queue waits for its credential to expire.
            f"AuthInfo=socket={self.folder}/munge.socket,cred_expire=5",
            "MinJobAge=120",
            "KillWait=2",
            "ReturnToService=2",
            "SlurmdParameters=config_overrides",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "SchedulerParameters=sched_interval=1,batch_sched_delay=0",
            "MailProg=/bin/true",
            "SlurmctldDebug=debug",
            f"StateSaveLocation={self.folder}/state",
            f"SlurmdSpoolDir={self.folder}/spool-%n",
            f"SlurmctldPidFile={self.folder}/slurmctld.pid",
            f"SlurmdPidFile={self.folder}/slurmd-%n.pid",
            *(
                f"NodeName={n} NodeHostname={host} NodeAddr=127.0.0.1 Port={p} CPUs=1"
                for n, p in zip(NODES, nodes, strict=True)
            ),
            "PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP",
        ]
        (self.folder / "slurm.conf").write_text("\n".join(lines) + "\n")

    def start(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        self.daemons[name] = subprocess.Popen(
            command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment, cwd=self.folder
        )
        log.close()

    def start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        socket_path = self.folder / "munge.socket"
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        self.start("munged", "munged", "--foreground", "--force", f"--socket={socket_path}", *files)
        self.wait_for(socket_path.exists, 10, "munged's socket")

    def start_node(self, node: str) -> None:
        self.start(node, "slurmd", "-D", "-N", node)

    def wait_for(self, condition, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            dead = [name for name, daemon in self.daemons.items() if daemon.poll() is not None]
            if dead:
                raise TimeoutError(f"{', '.join(dead)} ended")
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}")
            time.sleep(0.1)

    def call(self, *command: object, check: bool = True) -> str:
        """A client's standard output."""
        words = [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment, timeout=60, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def states(self) -> dict[str, str]:
        """Of the nodes: idle, allocated, down, ..."""
        return dict(line.split() for line in self.call("sinfo", "-hN", "-o", "%N %T", check=False).splitlines())

    def job(self, name: object) -> dict[str, str]:
        """Fields of `scontrol show job`: JobState, Restarts, BatchHost, ..."""
        return dict(
            word.split("=", 1) for word in self.call("scontrol", "-o", "show", "job", name).split() if "=" in word
        )

    def tasks(self, node: str) -> list[pathlib.Path]:
        """Processes of jobs on a node."""
        marks = (f"SLURMD_NODENAME={node}\0", f"SLURM_CONF={self.folder}/")
        return [process for process in processes() if all(mark in text_of(process, "environ") for mark in marks)]

    def kill_node(self, node: str) -> None:
        """As if its power failed: its daemon, and all that it started, die without warning."""
        daemon = self.daemons.pop(node, None)
        if daemon:
            daemon.kill()
            daemon.wait()
        for process in self.tasks(node):
            parent = pathlib.Path("/proc") / parent_of(process)
            for victim in (parent, process):
                if victim == process or text_of(parent, "comm").startswith("slurmstepd"):
                    end(victim)


def processes() -> list[pathlib.Path]:
    return list(pathlib.Path("/proc").glob("[0-9]*"))


def text_of(process: pathlib.Path, name: str) -> str:
    try:
        return (process / name).read_text(errors="replace")
    except OSError:  # it is gone
        return ""


def parent_of(process: pathlib.Path) -> str:
    return text_of(process, "stat").rpartition(")")[2].split()[1] if text_of(process, "stat") else "0"


def end(process: pathlib.Path) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(process.name), signal.SIGKILL)
