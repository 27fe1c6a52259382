"""scripts/slurm/sweep.sbatch under a real Slurm: an array whose tasks are killed, lose their node, run out of time and
are put back into the queue ends with the records of one run without any of it."""

import os
import pathlib
import signal

import pytest
from cli_support import ROOT, STUFFED, needs_binary, stuffed
from slurm_cluster import CannotStart, Cluster, text_of, why_not

pytestmark = [needs_binary, pytest.mark.skipif(why_not() != "", reason=why_not())]
MODELS = ROOT / "tests" / "models"
# Four cells, one per task of the array. A segment of a few tokens makes each last for seconds: on a busy machine a
# shorter one ends before it is met at its work.
SWEEP = f"""
[defaults]
device = "cpu"
text = ["{MODELS / "text" / "romans.txt"}", "{MODELS / "text" / "james.txt"}"]
segment = 4
save-every = 0.1
[[runs]]
command = "ppl-by-length"
name = "{{model}}-{{length}}"
bucket = 32
[runs.grid]
model = ["{MODELS / "mamba2-short"}", "{MODELS / "mamba2-long"}"]
length = ["4K", "6K"]
"""
NAMES = ["mamba2-short-4K", "mamba2-short-6K", "mamba2-long-4K", "mamba2-long-6K"]
BACK = "stopped before the end: back into the queue"


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "slurm").mkdir()
    cluster = Cluster(tmp_path / "slurm")
    try:
        cluster.__enter__()
    except CannotStart as error:
        pytest.skip(f"Slurm's daemons do not start here: {error}")
    yield cluster
    cluster.__exit__()


class Array:
    """The tasks of the array, as Slurm and their files show them."""

    def __init__(self, cluster, folder, job):
        self.cluster, self.folder, self.job = cluster, folder, job
        self.failed_launches = [0] * len(NAMES)

    def state(self, task):
        return self.cluster.job(f"{self.job}_{task}")["JobState"]

    def saved(self, task):
        return self.folder / (NAMES[task] + ".jsonl.state")

    def processes(self, task):
        """Sweep and worker of a task."""
        node = self.cluster.job(f"{self.job}_{task}").get("BatchHost", "")
        programs = [p for p in self.cluster.tasks(node) if f"SLURM_ARRAY_TASK_ID={task}\0" in text_of(p, "environ")]
        return [process for process in programs if text_of(process, "cmdline").startswith(str(STUFFED))]

    def worker(self, task):
        return [int(p.name) for p in self.processes(task) if text_of(p, "cmdline").endswith("sweep\0--worker\0")]

    def restarts(self, task):
        """Those of a task that had begun."""
        return int(self.cluster.job(f"{self.job}_{task}").get("Restarts", 0)) - self.failed_launches[task]

    def launch_again(self, task):
        """Slurm gives a task's first process 5 s to answer, and sets the task aside if a busy machine takes longer."""
        if self.cluster.job(f"{self.job}_{task}").get("Reason") != "launch_failed_requeued_held":
            return
        if self.failed_launches[task] == 5:
            pytest.skip("this machine is too busy for Slurm: a task's first process took more than 5 s, five times")
        self.failed_launches[task] += 1
        self.cluster.call("scontrol", "release", f"{self.job}_{task}")

    def wait(self, task, condition):
        def met():
            self.launch_again(task)
            return condition()

        try:
            self.cluster.wait_for(met, 120, f"task {task}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.cluster.job(f'{self.job}_{task}')}") from None

    def hold(self, task):
        """Waits until the task has kept a part of its cell, and stops its worker there, so that what the test does next
        meets it at work. Gives the worker."""
        self.wait(task, lambda: self.saved(task).exists() and self.state(task) == "RUNNING" and self.worker(task))
        (worker,) = self.worker(task)
        os.kill(worker, signal.SIGSTOP)
        return worker


def records(path: pathlib.Path) -> list[str]:
    return path.read_text().splitlines()[1:]


def test_an_array_that_loses_tasks_and_nodes_ends_with_the_records_of_one_run(cluster, tmp_path):
    (tmp_path / "sweep.toml").write_text(SWEEP)
    out = tmp_path / "out"
    log = tmp_path / "task-%a.log"
    cluster.environment["STUFFED"] = str(STUFFED)
    options = ["--parsable", "--array=0-3", "--time=30", f"--output={log}", f"--chdir={tmp_path}"]
    script = ROOT / "scripts" / "slurm" / "sweep.sbatch"
    job = cluster.call("sbatch", *options, script, tmp_path / "sweep.toml", "-o", out).strip()
    array = Array(cluster, out, job)

    # Task 0 hangs until it comes near its time limit. Slurm looks every 30 s, and 120 s before the limit sends CONT,
    # then USR1, as the template asks for: stuffed ends with exit code 75, and the task goes back into the queue.
    array.hold(0)
    cluster.call("scontrol", "update", f"JobId={job}_0", "TimeLimit=2")
    # Task 1: its worker is killed. The sweep replaces it, Slurm notices nothing.
    os.kill(array.hold(1), signal.SIGKILL)
    array.wait(1, lambda: array.state(1) == "COMPLETED")
    # Task 2 loses its node, which comes back later.
    array.hold(2)
    node = cluster.job(f"{job}_2")["BatchHost"]
    cluster.kill_node(node)
    cluster.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    array.wait(2, lambda: array.restarts(2) > 0)
    cluster.start_node(node)
    # Task 3 is put back into the queue by hand: CONT and TERM, and KILL after KillWait.
    array.hold(3)
    cluster.call("scontrol", "requeue", f"{job}_3")
    array.wait(0, lambda: array.restarts(0) > 0)
    cluster.call("scontrol", "update", f"JobId={job}_0", "TimeLimit=30")

    for task in range(4):
        array.wait(task, lambda task=task: array.state(task) == "COMPLETED")
    assert [array.restarts(task) > 0 for task in range(4)] == [True, False, True, True]
    assert [BACK in (tmp_path / f"task-{task}.log").read_text() for task in (0, 1)] == [True, False]
    whole = tmp_path / "whole"
    (tmp_path / "whole.toml").write_text(SWEEP.replace("save-every = 0.1", ""))
    done = stuffed("sweep", tmp_path / "whole.toml", "-o", whole)
    assert done.returncode == 0, done.stderr
    for folder in (out, whole):
        done = stuffed("merge", folder, "-o", folder.with_suffix(".jsonl"))
        assert done.returncode == 0, done.stderr
    assert records(tmp_path / "out.jsonl") == records(tmp_path / "whole.jsonl")
    assert stuffed("compare", tmp_path / "whole.jsonl", tmp_path / "out.jsonl", "--atol", 0).returncode == 0
