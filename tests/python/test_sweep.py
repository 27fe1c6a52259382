"""`stuffed sweep`, from outside: the same records as its commands alone, whatever dies on the way."""

import json
import os
import pathlib
import pty
import shutil
import signal
import subprocess
import time

import pytest
from cli_support import ROOT, STUFFED, needs_binary, refused, stuffed

pytestmark = needs_binary
MODELS = ROOT / "tests" / "models"
TEXTS = MODELS / "text"
HEAD = f"""
[defaults]
device = "cpu"
text = ["{TEXTS / "romans.txt"}", "{TEXTS / "james.txt"}"]
segment = 64
"""
GRID = f"""
[[runs]]
command = "ppl-by-length"
name = "{{model}}-{{length}}-{{mitigation}}"
bucket = 32
[runs.grid]
model = ["{MODELS / "mamba2-short"}", "{MODELS / "mamba2-long"}"]
length = [96, 256]
mitigation = [[], ["clip_insert:max=0.5"]]
"""
NAMES = [
    f"{m}-{n}-{k}" for m in ("mamba2-short", "mamba2-long") for n in (96, 256) for k in ("none", "clip_insert-max=0.5")
]


def config(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return path


def records(path):
    return path.read_text().splitlines()[1:]


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def start(*arguments, **more):
    command = [str(argument) for argument in (STUFFED, "sweep", *arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**more))


def plan(folder):
    return json.loads((folder / "sweep.json").read_text())["cells"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The sweep run at a stretch, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    done = stuffed("sweep", config(folder, HEAD + GRID), "-o", folder / "out", "--jobs", 2)
    assert done.returncode == 0, done.stderr
    return folder / "out", done


def test_a_sweep_gives_the_records_of_its_commands(whole, tmp_path):
    folder, done = whole
    assert [cell["name"] for cell in plan(folder)] == NAMES
    assert {cell["status"] for cell in plan(folder)} == {"done"}
    assert "8 of 8 cells done" in done.stdout
    for name in (NAMES[0], NAMES[-1]):
        (cell,) = [cell for cell in plan(folder) if cell["name"] == name]
        words = [f"--{key}={v}" for key, vs in cell["options"].items() for v in (vs if isinstance(vs, list) else [vs])]
        alone = stuffed(cell["command"], *words, "-o", tmp_path / f"{name}.jsonl")
        assert alone.returncode == 0, alone.stderr
        assert records(folder / f"{name}.jsonl") == records(tmp_path / f"{name}.jsonl")
        assert alone.stdout in (folder / f"{name}.log").read_text()


def test_what_is_done_is_not_run_again(whole, tmp_path):
    folder, _ = whole
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.jsonl")}
    logs = {path.name: path.stat().st_size for path in folder.glob("*.log")}
    done = stuffed("sweep", config(tmp_path, HEAD + GRID), "-o", folder, "--threads", 2, "--jobs", 1)
    assert done.returncode == 0, done.stderr
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("*.jsonl")} == before
    assert {path.name: path.stat().st_size for path in folder.glob("*.log")} == logs
    # Another text under the same names is noticed.
    other = config(tmp_path, HEAD.replace("james", "hebrews") + GRID)
    done = stuffed("sweep", other, "-o", folder, "--shard", "0/8")
    refused(done, 2, "1 cell failed")
    assert "config.data" in (folder / f"{NAMES[0]}.error.json").read_text()
    assert plan(folder)[0]["status"] == "failed" and plan(folder)[0]["exit_code"] == 2
    done = stuffed("sweep", config(tmp_path, HEAD + GRID), "-o", folder, "--shard", "0/8")
    assert done.returncode == 0, done.stderr


def test_shards_of_slurms_array_make_the_same_records(whole, tmp_path):
    path = config(tmp_path, HEAD + GRID)
    folder = tmp_path / "out"
    array = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_STEP": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
    for index in (7, 3, 5):
        process = start(path, "-o", folder, SLURM_ARRAY_TASK_ID=str(index), **array)
        errors = process.communicate(timeout=120)[1]
        assert process.returncode == 0, errors
    for name in NAMES:
        assert records(folder / f"{name}.jsonl") == records(whole[0] / f"{name}.jsonl")
    assert len(list(folder.glob("*.jsonl"))) == len(NAMES)


def workers_of(process):
    """Processes whose parent it is."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == process.pid:
            found.append(int(stat.parent.name))
    return found


LONG = f"""
[[runs]]
command = "ppl-by-length"
bucket = 32
segment = 32
save-every = 0.02
[runs.grid]
model = ["{MODELS / "mamba2-short"}"]
length = [2048, 4096]
"""


@pytest.fixture(scope="module")
def long_whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    done = stuffed("sweep", config(folder, HEAD.replace("segment = 64", "") + LONG), "-o", folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out"


def same(folder, other):
    names = sorted(path.name for path in other.glob("*.jsonl"))
    assert names and sorted(path.name for path in folder.glob("*.jsonl")) == names
    for name in names:
        assert records(folder / name) == records(other / name)


def test_a_worker_that_is_killed_is_replaced_and_goes_on(long_whole, tmp_path):
    path = config(tmp_path, HEAD.replace("segment = 64", "") + LONG)
    process = start(path, "-o", tmp_path / "out")
    killed = 0
    while process.poll() is None:
        if (tmp_path / "out").exists() and any((tmp_path / "out").glob("*.state")) and killed < 3:
            for worker in workers_of(process):
                os.kill(worker, signal.SIGKILL)
                killed += 1
            time.sleep(1.2)
        time.sleep(0.02)
    assert killed >= 1 and process.returncode == 0, process.stderr.read()
    same(tmp_path / "out", long_whole)


@pytest.mark.parametrize("how", ["signal", "kill"])
def test_a_sweep_that_is_stopped_goes_on(long_whole, tmp_path, how):
    path = config(tmp_path, HEAD.replace("segment = 64", "") + LONG)
    process = start(path, "-o", tmp_path / "out")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.state")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    workers = workers_of(process)
    process.send_signal(signal.SIGTERM if how == "signal" else signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == (75 if how == "signal" else -signal.SIGKILL)
    while any(pathlib.Path(f"/proc/{worker}").exists() for worker in workers) and how == "kill":
        assert time.monotonic() < deadline  # they find their owner gone, and stop
        time.sleep(0.05)
    done = stuffed("sweep", path, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    same(tmp_path / "out", long_whole)


def test_a_worker_keeps_its_model_for_the_cells_that_follow(tmp_path):
    """Whoever loads this one says so in the cell's log: its config has a key that nobody knows."""
    for name in ("one", "two"):
        shutil.copytree(MODELS / "mamba2-short", tmp_path / name)
        known = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**known, "colour": name}))
    text = HEAD + '[[runs]]\ncommand = "ppl-by-length"\n[runs.grid]\nlength = [32, 64, 96]\nmodel = ["one", "two"]\n'
    done = stuffed("sweep", config(tmp_path, text), "-o", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # The file has them in turns; of each model the first that is run loads it.
    logs = {path.stem: path.read_text() for path in (tmp_path / "out").glob("*.log")}
    assert {name for name, log in logs.items() if "colour" in log} == {"ppl-by-length-32-one", "ppl-by-length-32-two"}


def test_failing_cells_are_recorded_and_the_others_go_on(tmp_path):
    text = HEAD + GRID.replace("length = [96, 256]", 'length = [96, "1M"]')
    done = stuffed("sweep", config(tmp_path, text), "-o", tmp_path / "out", "--jobs", 2)
    refused(done, 3, "4 cells failed")
    cells = plan(tmp_path / "out")
    assert [cell["status"] for cell in cells] == ["done", "done", "failed", "failed"] * 2
    assert "1048576" in cells[2]["error"] and cells[2]["exit_code"] == 3
    # Codes that differ are 1.
    mixed = text + '[[runs]]\ncommand = "ppl-by-length"\nname = "no"\nbucket = 64\ntrain-len = 64\nlength = 96\n'
    mixed += f'model = "{MODELS / "mamba2-short"}"\n'
    done = stuffed("sweep", config(tmp_path, mixed), "-o", tmp_path / "out")
    refused(done, 1, "5 cells failed")
    assert plan(tmp_path / "out")[-1]["exit_code"] == 2


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GRID.replace("bucket", "buckett"), ["buckett"]),
        (GRID.replace("bucket = 32", 'bucket = "x"'), ["mamba2-short-96-none", "--bucket"]),
        (GRID.replace("mamba2-long", "absent"), ["absent", "no such file or folder"]),
        (GRID.replace("-{length}", ""), ["two cells", "mamba2-short-none"]),
        (GRID.replace("clip_insert:max=0.5", "clip_insert:maxx=1"), ["maxx"]),
        (GRID.replace("clip_insert:max=0.5", "clamp_norm:limits=absent.safetensors"), ["absent.safetensors"]),
    ],
)
def test_mistakes_end_it_before_anything_runs(tmp_path, text, parts):
    refused(stuffed("sweep", config(tmp_path, HEAD + text), "-o", tmp_path / "out"), 2, *parts)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sweep.json").write_text('{"mine": 1}')
    refused(stuffed("sweep", config(tmp_path, HEAD + GRID), "-o", tmp_path / "out"), 3, "sweep.json")
    assert (tmp_path / "out" / "sweep.json").read_text() == '{"mine": 1}'
    refused(stuffed("sweep", config(tmp_path, HEAD + GRID)), 2, "-o DIR")
    refused(stuffed("sweep", tmp_path / "absent.toml", "-o", tmp_path / "b"), 3, "absent.toml")


def test_a_dry_run_says_what_it_would_take_and_touches_nothing(tmp_path):
    text = HEAD + GRID + '[[runs]]\ncommand = "passkey"\nlengths = [512]\ndepths = 2\ntrials = 1\n'
    text += f'model = "{MODELS / "mamba2-passkey"}"\n[[runs]]\ncommand = "retention"\nlength = 64\n'
    text += f'model = "{MODELS / "mamba2-short"}"\npoints = 4\n'
    done = stuffed("sweep", config(tmp_path, text), "-o", tmp_path / "out", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:11]}
    assert set(rows) == {*NAMES, "passkey", "retention"}
    assert rows["mamba2-short-256-none"][2] == "512"  # two documents
    planned = stuffed(
        "passkey", "--model", MODELS / "mamba2-passkey", "--lengths", 512, "--depths", 2, "--trials", 1, "--dry-run"
    )
    assert int(rows["passkey"][2]) == json.loads(planned.stdout)["tokens_to_feed"]
    assert "10 of 10 cells, 0 done" in done.stdout and "hours" in done.stdout


def test_a_dry_run_counts_hours_by_the_cells_that_are_done(whole, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(whole[0], folder)
    arguments = ["sweep", config(tmp_path, HEAD + GRID), "-o", folder]
    took = {name: json.loads((folder / f"{name}.time.json").read_text())["seconds"] for name in NAMES}
    assert all(0 < seconds < 300 for seconds in took.values())
    # Cells of 96 tokens are done and took an hour each; those of 256 are not.
    for name in NAMES:
        (folder / f"{name}.time.json").write_text(json.dumps({"seconds": 3600}))
        if "-256-" in name:
            (folder / f"{name}.jsonl").unlink()
    done = stuffed(*arguments, "--dry-run")
    assert done.returncode == 0, done.stderr
    hours = {line.split()[0]: float(line.split()[5]) for line in done.stdout.splitlines()[1:9]}
    for name in NAMES:
        assert hours[name] == pytest.approx(256 / 96 if "-256-" in name else 1, rel=1e-3)
    assert "4 done" in done.stdout and "about 10.67 hours" in done.stdout
    assert "Hours of 4 cells are estimated from finished cells" in done.stdout and "guess" not in done.stdout
    # A file that says nothing leaves the guess, which says that it is one.
    for name in NAMES:
        (folder / f"{name}.time.json").write_text("{")
    done = stuffed(*arguments, "--dry-run")
    assert done.returncode == 0 and "Hours of 4 cells are a guess" in done.stdout


def on_a_terminal(*words, **more):
    """What a program writes to a terminal as its standard error, and its exit code."""
    owner, terminal = pty.openpty()
    process = subprocess.Popen(
        [str(word) for word in words], stdout=subprocess.DEVNULL, stderr=terminal, env=environment(**more)
    )
    os.close(terminal)
    text = b""
    while True:
        try:
            block = os.read(owner, 4096)
        except OSError:  # the other end is closed
            block = b""
        if not block:
            break
        text += block
    os.close(owner)
    return text.decode(), process.wait(timeout=60)


def test_failures_are_red_on_a_terminal_unless_no_color_is_set(tmp_path):
    text = f'[[runs]]\ncommand = "ppl-by-length"\nname = "long"\nlength = "1M"\nmodel = "{MODELS / "mamba2-short"}"\n'
    command = [STUFFED, "sweep", config(tmp_path, HEAD + text), "-o"]
    for name, variables, is_red in (("a", {}, True), ("b", {"NO_COLOR": ""}, True), ("c", {"NO_COLOR": "1"}, False)):
        shown, code = on_a_terminal(*command, tmp_path / name, **variables)
        assert code == 3 and "long: FAILED (exit code 3)" in shown
        assert ("\033[31m" in shown) == is_red, f"{variables}: {shown!r}"
    # It is the only command that colours anything.
    sources = [path for path in (ROOT / "src").rglob("*.cpp") if "\\033[3" in path.read_text()]
    assert [path.name for path in sources] == ["progress.cpp"] and "NO_COLOR" in sources[0].read_text()


def test_threads_are_recorded_and_never_block_a_resume(tmp_path):
    run = ["ppl-by-length", "--model", MODELS / "mamba2-short", "--text", TEXTS / "romans.txt", "--length", 64]
    out = tmp_path / "a.jsonl"
    assert stuffed(*run, "-o", out, "--threads", 2).returncode == 0
    header = json.loads(out.read_text().splitlines()[0])
    assert header["provenance"]["threads"] == 2 and "threads" not in header["config"]
    assert stuffed(*run, "-o", out, "--threads", 1).returncode == 0
    (tmp_path / "a.toml").write_text("threads = 2\n")
    assert stuffed(*run, "-o", tmp_path / "b.jsonl", "--config", tmp_path / "a.toml").returncode == 0
    assert json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0])["provenance"]["threads"] == 2
    refused(stuffed(*run, "-o", out, "--threads", 0), 2, "--threads")
