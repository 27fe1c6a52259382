"""`stuffed train --distributed`: several processes against one, deaths, signals, and what is wrong at the start."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import stuffed_results
from cli_support import STUFFED, needs_binary, refused, stuffed

pytestmark = needs_binary

MODEL = {"hidden_size": 16, "num_hidden_layers": 2, "head_dim": 8, "state_size": 8}
STEPS = 200
# At a rate of 0.01 rounding grows past 1e-5 within 200 steps, between one process and itself with --accumulate 2 too.
OPTIONS = {"--model-config": json.dumps(MODEL), "--mix": "repeat=1", "--length": 16, "--batch": 8, "--lr": 0.003,
           "--steps": STEPS, "--log-every": 1, "--checkpoint-every": 10, "--segments": 2, "--device": "cpu",
           "--initial-state": "passed", "--validate-every": 100}  # fmt: skip
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
PORTS_OF_JOBS = range(12_000, 32_000)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in os.environ:
        if name in VARIABLES or name.startswith(("SLURM_", "TORCHELASTIC_")):
            monkeypatch.delenv(name)


def is_free(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("", 0))
        return taken.getsockname()[1]


def of_torchrun(rank: int, size: int, port: int) -> dict[str, str]:
    return dict(zip(VARIABLES, map(str, (rank, size, rank, "127.0.0.1", port)), strict=True))


def of_slurm(rank: int, size: int, port: int) -> dict[str, str]:
    numbers = {"PROCID": rank, "NTASKS": size, "LOCALID": rank, "JOB_ID": 40_000 + port - PORTS_OF_JOBS.start}
    return {f"SLURM_{name}": str(value) for name, value in numbers.items()} | {"SLURM_NODELIST": "localhost"}


def train(folder: Path, **more: object) -> list[str]:
    """The command, with these options besides OPTIONS or in their place."""
    options = {**OPTIONS, "-o": folder} | {f"--{name.replace('_', '-')}": value for name, value in more.items()}
    return ["train", *(str(part) for option in options.items() for part in option)]


def rank_of(folder: Path, **more: object) -> list[str]:
    return [str(STUFFED), *train(folder, rendezvous_timeout=60, **more), "--distributed"]


class Run:
    """Processes of one run; `more` are the options of each, see train()."""

    def __init__(self, folder: Path, *more: dict[str, object], variables=of_torchrun):
        port = free_port() if variables is of_torchrun else next(port for port in PORTS_OF_JOBS if is_free(port))
        self.folder = folder
        self.processes = [
            subprocess.Popen(
                rank_of(folder, **options),
                env={**os.environ, "OMP_NUM_THREADS": "1", **variables(rank, len(more), port)},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank, options in enumerate(more)
        ]  # fmt: skip

    def wait_for(self, step: int) -> None:
        journal = self.folder / "train.jsonl"
        until = time.monotonic() + 120
        while not journal.exists() or f'"step={step}"' not in journal.read_text():
            assert time.monotonic() < until and all(p.poll() is None for p in self.processes), self.end()
            time.sleep(0.01)

    def end(self) -> tuple[list[int], list[str]]:
        """Exit codes, and what each said that is no progress."""
        said = [process.communicate(timeout=120)[1] for process in self.processes]
        lines = [[line for line in text.splitlines() if not line.startswith("step ")] for text in said]
        return [process.returncode for process in self.processes], ["\n".join(own) for own in lines]


def finished(folder: Path) -> Path:
    assert Run(folder, {}, {}).end() == ([0, 0], ["", ""])
    return folder


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    return finished(tmp_path_factory.mktemp("distributed") / "two")


def test_every_loss_is_that_of_one_process(by_two, tmp_path):
    # What is not asked for is not read.
    done = stuffed(*train(tmp_path / "one"), env={"RANK": "1", "WORLD_SIZE": "many"})
    assert done.returncode == 0, done.stderr
    one = stuffed_results.read(tmp_path / "one" / "train.jsonl", "stuffed.train")
    two = stuffed_results.read(by_two / "train.jsonl", "stuffed.train")
    assert one.records.keys() == two.records.keys()
    losses = {key: r["loss_nats"] for key, r in one.records.items() if key.startswith("step=")}
    assert len(losses) == STEPS
    assert losses["step=1"] - losses[f"step={STEPS}"] > 0.5  # it learns
    for key, loss in losses.items():
        assert abs(two.records[key]["loss_nats"] - loss) < 1e-5, key
    assert one.config == two.config
    assert two.provenance["ranks"] == 2 and "ranks" not in one.provenance


def test_a_killed_rank_and_a_signal_lose_nothing(by_two, tmp_path):
    folder = tmp_path / "stopped"
    run = Run(folder, {}, {})
    run.wait_for(30)
    run.processes[1].kill()
    killed = time.monotonic()
    codes, said = run.end()
    assert time.monotonic() - killed < 10
    assert codes == [1, -signal.SIGKILL]
    assert said[1] == "" and said[0].count("\n") == 0
    assert said[0].startswith("stuffed: rank 1 of 2 is gone: ")

    run = Run(folder, {}, {})
    run.wait_for(70)
    run.processes[1].send_signal(signal.SIGTERM)  # which rank 0 hears of by rank 1 alone
    codes, said = run.end()
    assert codes == [75, 75] and said[1] == ""
    assert said[0].startswith("stuffed: stopped by a signal to another rank after step ")
    assert not (folder / "model.safetensors").exists()

    finished(folder)
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert (folder / name).read_bytes() == (by_two / name).read_bytes(), name
    records = [stuffed_results.read(path / "train.jsonl", "stuffed.train").records for path in (folder, by_two)]
    assert records[0] == records[1]


def test_a_signal_to_all_is_said_once(tmp_path):
    run = Run(tmp_path / "run", {}, {}, {}, {}, variables=of_slurm)
    run.wait_for(5)
    for process in run.processes:
        process.send_signal(signal.SIGUSR1)
    codes, said = run.end()
    assert codes == [75] * 4 and said[1:] == ["", "", ""]
    assert said[0].count("stuffed: ") == 2  # that it was heard, and where it stopped
    assert "stopped by SIGUSR1 after step" in said[0]


def test_ranks_with_other_options_are_found(tmp_path):
    codes, said = Run(tmp_path / "run", {}, {"lr": 0.02}).end()
    assert codes == [2, 2] and said[1] == ""
    assert said[0].startswith("stuffed: rank 1: --distributed: learning_rate is 0.02 here, but 0.003 on rank 0")


def test_a_rank_that_cannot_go_on_ends_all(tmp_path):
    codes, said = Run(tmp_path / "run", {}, {"text": tmp_path / "nosuch.txt"}).end()
    assert codes == [3, 3] and said[1] == ""
    assert said[0].startswith("stuffed: rank 1: ") and "nosuch.txt" in said[0]


def at_the_start(tmp_path, **env) -> subprocess.CompletedProcess:
    """One process, from which nothing is left to be found but a message."""
    done = stuffed(*train(tmp_path / "run", rendezvous_timeout=1), "--distributed", env=env)
    assert not (tmp_path / "run").exists()
    return done


def test_missing_variables_are_named(tmp_path):
    refused(at_the_start(tmp_path), 2, "RANK", "SLURM_PROCID", "torchrun --no-python", "srun")
    refused(at_the_start(tmp_path, RANK="0"), 2, "WORLD_SIZE is not set", "torchrun --no-python")


def test_a_port_in_use_is_said(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        refused(at_the_start(tmp_path, **of_torchrun(0, 2, port)), 2, f"port {port} is in use", "MASTER_PORT")


def test_a_rank_that_never_comes_is_named(tmp_path):
    done = at_the_start(tmp_path, **of_torchrun(0, 3, free_port()))
    refused(done, 1, "of 3 ranks these did not come within 1 s: 1, 2", "--rendezvous-timeout")
    port = free_port()
    done = at_the_start(tmp_path, **of_torchrun(1, 3, port))
    refused(done, 1, f"rank 1 of 3 did not find rank 0 at 127.0.0.1:{port}", "within 1 s")
    assert len(done.stderr.splitlines()) == 1  # nothing of LibTorch's own


def test_torchrun_starts_it(tmp_path):
    torchrun = Path(sys.executable).parent / "torchrun"
    if not torchrun.exists():
        pytest.skip("STUFFED_LIBTORCH names a LibTorch without Python's torch")
    start = [str(torchrun), "--no-python", "--nproc-per-node", "2", "--master-port", str(free_port())]
    done = subprocess.run(
        [*start, *rank_of(tmp_path / "run", steps=3)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    journal = stuffed_results.read(tmp_path / "run" / "train.jsonl", "stuffed.train")
    assert journal.provenance["ranks"] == 2
    assert "step=3" in journal.records
