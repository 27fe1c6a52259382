"""Disks that are full or read-only, files without room, a file in a list that cannot be read, an output that another
process writes, a clock that goes backwards: each is said, and with the cause gone the same command ends with the
records of a run without it."""

import datetime
import fcntl
import json
import os
import re
import resource
import shutil
import subprocess
import time

import pytest
from cli_support import ROOT, STUFFED, needs_binary, refused, stuffed

pytestmark = needs_binary
MODELS = ROOT / "tests" / "models"
TEXTS = [MODELS / "text" / f"{name}.txt" for name in ("romans", "james")]
SWEEP = f"""
[defaults]
device = "cpu"
text = ["{TEXTS[0]}", "{TEXTS[1]}"]
segment = 64
save-every = 0.01
[[runs]]
command = "ppl-by-length"
bucket = 1
model = "{MODELS / "mamba2-short"}"
[runs.grid]
length = [512, "4K"]
"""
# In a mount namespace of its own: nobody else sees the small disk, and it is gone with the script.
DISK = """
set -u
mount -t tmpfs -o size=160k small "$1" || exit 99
"$2" sweep "$3" -o "$1/out"; echo "full $?"
mount -o remount,size=20m "$1"
"$2" sweep "$3" -o "$1/out"; echo "room $?"
cp "$1"/out/*.jsonl "$4"
mount -o remount,ro "$1"
"$2" sweep "$3" -o "$1/new"; echo "read-only $?"
"$2" merge "$1/out" -o "$1/m.jsonl"; echo "merge $?"
"""


def can_mount():
    tool = shutil.which("unshare")
    trial = [tool or "", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return tool is not None and subprocess.run(trial, capture_output=True, check=False).returncode == 0


def records_in(folder):
    return {path.name: path.read_bytes().split(b"\n", 1)[1] for path in folder.glob("*.jsonl")}


@pytest.mark.skipif(not can_mount(), reason="no disk can be mounted here")
def test_a_disk_that_is_full_or_read_only(tmp_path):
    for name in ("small", "copy"):
        (tmp_path / name).mkdir()
    (tmp_path / "sweep.toml").write_text(SWEEP)
    words = ["unshare", "-m", "bash", "-c", DISK, "disk", *(tmp_path / "small", STUFFED, tmp_path / "sweep.toml")]
    done = subprocess.run(
        [str(word) for word in (*words, tmp_path / "copy")],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
        timeout=300,
    )
    codes = [line for line in done.stdout.splitlines() if line.split()[0] in ("full", "room", "read-only", "merge")]
    assert codes == ["full 7", "room 0", "read-only 7", "merge 7"], done.stdout + done.stderr
    assert "No space left on device" in done.stderr and "Read-only file system" in done.stderr
    assert stuffed("sweep", tmp_path / "sweep.toml", "-o", tmp_path / "whole").returncode == 0
    assert len(records_in(tmp_path / "whole")) == 2
    assert records_in(tmp_path / "copy") == records_in(tmp_path / "whole")


@pytest.mark.parametrize("broken", ["bytes", "absent", "folder"])
def test_a_file_in_the_middle_that_cannot_be_read_is_named(broken, tmp_path):
    middle = tmp_path / "middle.txt"
    if broken == "bytes":
        middle.write_bytes(b"ab\xff\xfe")
    elif broken == "folder":
        middle.mkdir()
    texts = ["--text", TEXTS[0], "--text", middle, "--text", TEXTS[1]]
    refused(stuffed("ppl-by-length", "--model", MODELS / "mamba2-short", *texts, "-o", tmp_path / "a.jsonl"), 3, middle)


def snapshot(folder):
    """Every file, but for logs and plans, which say what was tried."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith((".log", "sweep.json", ".error.json", ".time.json"))
    }


def whole_lines(before, after):
    """What was there is there still, and what was added are whole lines."""
    return after.startswith(before) and (not after or after.endswith(b"\n"))


def ppl_run(text=TEXTS):
    words = [word for one in text for word in ("--text", one)]
    return ["ppl-by-length", "--model", MODELS / "mamba2-short", *words, "--device", "cpu", "--bucket", 1]


def half_of(journal, records):
    """An unfinished journal: what a run that was killed leaves."""
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: 1 + records]))


TRAIN = [
    *("train", "--model-config", '{"hidden_size":32,"num_hidden_layers":1,"head_dim":16,"state_size":16}'),
    *("--text", TEXTS[0], "--length", 64, "--window", 64, "--batch", 2, "--steps", 60, "--warmup", 2, "--decay", 2),
    *("--checkpoint-every", 5, "--log-every", 20, "--device", "cpu", "--save-every", 0),
]


def start_journal(tmp_path):
    """Two records of three, and a whole run of the same command elsewhere."""
    texts = [*TEXTS, MODELS / "text" / "hebrews.txt"]
    command = [*ppl_run(texts), "--length", 512]
    assert stuffed(*command, "-o", tmp_path / "whole" / "a.jsonl").returncode == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    half_of(tmp_path / "out" / "a.jsonl", 2)
    return [*command, "-o", tmp_path / "out" / "a.jsonl"]


def start_sweep(tmp_path):
    """One cell of two."""
    (tmp_path / "s.toml").write_text(SWEEP.replace('"4K"', "1024"))
    command = ["sweep", tmp_path / "s.toml", "-o"]
    assert stuffed(*command, tmp_path / "whole").returncode == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "out")
    (tmp_path / "out" / "ppl-by-length-1024.jsonl").unlink()
    return [*command, tmp_path / "out"]


def start_train(tmp_path):
    """Killed at its first checkpoint of twelve, and a whole run."""
    assert stuffed(*TRAIN, "-o", tmp_path / "whole").returncode == 0
    command = [str(word) for word in (STUFFED, *TRAIN, "-o", tmp_path / "out")]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while first.poll() is None and not (tmp_path / "out" / "checkpoint.safetensors").exists():
        time.sleep(0.002)
    first.kill()
    first.wait()
    return [*TRAIN, "-o", tmp_path / "out"]


def start_merge(tmp_path):
    """Two halves of one run."""
    assert stuffed(*ppl_run(), "--length", 512, "-o", tmp_path / "one.jsonl").returncode == 0
    header, *records = (tmp_path / "one.jsonl").read_text().splitlines()
    for part, record in zip("pq", records, strict=False):
        (tmp_path / f"{part}.jsonl").write_text(f'{header}\n{record}\n{{"end":true,"records":1}}\n')
    command = ["merge", tmp_path / "p.jsonl", tmp_path / "q.jsonl", "-o"]
    assert stuffed(*command, tmp_path / "whole" / "m.jsonl").returncode == 0
    (tmp_path / "out").mkdir()
    return [*command, tmp_path / "out" / "m.jsonl"]


def start_export(tmp_path):
    assert stuffed(*ppl_run(), "--length", 512, "-o", tmp_path / "a.jsonl").returncode == 0
    command = ["export", "--format", "csv", tmp_path / "a.jsonl", "--overwrite", "-o"]
    for name in ("whole", "out"):  # an earlier export of the same, which is to be replaced
        assert stuffed(*command, tmp_path / name).returncode == 0
    return [*command, tmp_path / "out"]


def start_shards(tmp_path):
    command = ["tokenize", "--tokenizer", "bytes", "--shard-size", "4K", *TEXTS, "--shards"]
    assert stuffed(*command, tmp_path / "whole").returncode == 0
    (tmp_path / "out").mkdir()
    return [*command, tmp_path / "out"]


STARTS = {
    "ppl-by-length": start_journal,
    "sweep": start_sweep,
    "train": start_train,
    "merge": start_merge,
    "export": start_export,
    "tokenize-shards": start_shards,
}


def measured(files):
    """What must be the same: of journals the records."""
    return {
        name: [line for line in data.splitlines() if line.startswith(b'{"key"')] if name.endswith(".jsonl") else data
        for name, data in files.items()
    }


@pytest.mark.parametrize("name", STARTS)
def test_without_room_it_is_exit_code_7_and_nothing_of_earlier_is_lost(name, tmp_path):
    command = STARTS[name](tmp_path)
    before = snapshot(tmp_path / "out")
    size = max(map(len, before.values()), default=0) if name in ("ppl-by-length",) else 300
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    done = stuffed(*command, preexec_fn=limit)
    assert done.returncode == 7, f"{done.returncode}: {done.stderr}"
    after = snapshot(tmp_path / "out")
    for file, data in before.items():
        kept = whole_lines(data, after[file]) if file.endswith(".jsonl") else after[file] == data
        assert kept, file
    assert not [file for file in after if ".tmp" in file]
    done = stuffed(*command)
    assert done.returncode == 0, done.stderr
    assert measured(snapshot(tmp_path / "out")) == measured(snapshot(tmp_path / "whole"))


def test_compare_and_merge_onto_a_full_device(tmp_path):
    a = ROOT / "tests" / "golden" / "results" / "ppl_by_length.v1.jsonl"
    with open("/dev/full", "w") as full:
        for form in ("md", "json", "csv"):
            refused(stuffed("compare", a, a, "--format", form, stdout=full), 7, "output")
        refused(stuffed("compare", "--list-metrics", stdout=full), 7, "output")
    refused(stuffed("merge", a, "-o", "/dev/full"), 7, "/dev/full")


def test_two_processes_on_one_output(tmp_path):
    """The output of a run that goes on: its lock is held, as the first process holds it."""
    out = tmp_path / "a.jsonl"
    command = [*ppl_run(), "--length", 64]
    assert stuffed(*command, "-o", out).returncode == 0
    assert stuffed(*TRAIN, "-o", tmp_path / "model").returncode == 0
    shards = ["tokenize", "--tokenizer", "bytes", TEXTS[0], "--overwrite", "--shards", tmp_path / "shards"]
    assert stuffed(*shards).returncode == 0
    passkey = ["passkey", "--model", MODELS / "mamba2-passkey", "--lengths", 512, "--depths", 1, "--trials", 1]
    bench = ["bench", "scan", "--family", "mamba2", "--device", "cpu", "--tokens", 8, "--repeats", 1, "--no-ceilings"]
    second = [
        (out, [*command, "-o", out]),
        (out, [*command, "--overwrite", "-o", out]),
        (out, ["state-stats", *ppl_run()[1:-2], "--arrays", tmp_path / "s.safetensors", "--overwrite", "-o", out]),
        (out, ["retention", *ppl_run()[1:-2], "--length", 64, "--overwrite", "-o", out]),
        (out, [*passkey, "-o", out]),
        (out, ["merge", out, "--overwrite", "-o", tmp_path / "b.jsonl"]),
        (out, [*bench, "-o", out]),
        (tmp_path / "model" / "train.jsonl", [*TRAIN, "-o", tmp_path / "model"]),
        (tmp_path / "shards", shards),
    ]
    shutil.copy(out, tmp_path / "b.jsonl")
    before = snapshot(tmp_path)
    for file, words in second:
        held = tmp_path / "b.jsonl" if words[0] == "merge" else file
        descriptor = os.open(held, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        refused(stuffed(*words), 7, "another process is writing", held)
        os.close(descriptor)
    assert snapshot(tmp_path) == before


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
/* The wall clock goes back by ten minutes each time it is asked; the others go on as they are. */
static time_t lag;
int clock_gettime(clockid_t id, struct timespec* to) {
  static int (*real)(clockid_t, struct timespec*);
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, to);
  if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) to->tv_sec -= lag += 600;
  return result;
}
time_t time(time_t* to) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (to) *to = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval* to, void* zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  to->tv_sec = now.tv_sec;
  to->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


@pytest.fixture(scope="module")
def clock(tmp_path_factory):
    """A library that turns the wall clock back."""
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(CLOCK)
    compiler = next((found for found in map(shutil.which, ("cc", "gcc", "clang")) if found), None)
    if compiler is None:
        pytest.skip("no C compiler")
    built = [compiler, "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.c", "-ldl"]
    subprocess.run(built, check=True, capture_output=True)
    return {"LD_PRELOAD": str(folder / "clock.so")}


def turned_back(clock, *words, **more):
    command = [str(word) for word in (STUFFED, *words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **clock}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **more)


def test_a_clock_that_goes_backwards(clock, tmp_path):
    (tmp_path / "s.toml").write_text(SWEEP.replace('"4K"', "1024"))
    assert stuffed("sweep", tmp_path / "s.toml", "-o", tmp_path / "whole").returncode == 0
    start = turned_back(clock, "sweep", tmp_path / "s.toml", "-o", tmp_path / "out")
    assert start.returncode == 0, start.stderr
    assert records_in(tmp_path / "out") == records_in(tmp_path / "whole")
    for name in ("ppl-by-length-512", "ppl-by-length-1024"):
        header = json.loads((tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()[0])
        began = datetime.datetime.fromisoformat(header["provenance"]["started_utc"].replace("Z", "+00:00"))
        assert began < datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5), "the clock was turned back"
        assert 0 < json.loads((tmp_path / "out" / f"{name}.time.json").read_text())["seconds"] < 600
    # Stopped and gone on with, by a process whose clock is behind the one that began.
    out = tmp_path / "a.jsonl"
    command = [*ppl_run(), "--length", "2K", "--segment", 64, "--save-every", 0.02, "-o", out]
    process = subprocess.Popen([str(word) for word in (STUFFED, *command)], stderr=subprocess.DEVNULL)
    while process.poll() is None and not out.with_name("a.jsonl.state").exists():
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert out.with_name("a.jsonl.state").exists()
    done = turned_back(clock, *command)
    assert done.returncode == 0, done.stderr
    assert stuffed(*command[:-1], tmp_path / "b.jsonl").returncode == 0
    assert out.read_bytes().split(b"\n", 1)[1] == (tmp_path / "b.jsonl").read_bytes().split(b"\n", 1)[1]
    train = turned_back(clock, *TRAIN, "-o", tmp_path / "model")
    assert train.returncode == 0, train.stderr
    numbers = re.findall(r"(-?\d+) tokens/s\s+(-?\d+) s left", train.stderr)
    assert len(numbers) == 3 and all(int(speed) > 0 <= int(left) < 600 for speed, left in numbers), train.stderr
    bench = ["bench", "scan", "--family", "mamba2", "--device", "cpu", "--tokens", 8, "--repeats", 1, "--no-ceilings"]
    done = turned_back(clock, *bench, "-o", tmp_path / "bench.jsonl")
    assert done.returncode == 0, done.stderr
    times = [line for line in map(json.loads, (tmp_path / "bench.jsonl").read_text().splitlines()) if "key" in line]
    assert times and all(0 < line["seconds_median"] < 60 for line in times)
