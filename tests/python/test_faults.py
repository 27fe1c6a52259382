"""A sweep on a disk that is full or read-only, a run with a file in the middle of its list that cannot be read: each
says so, and with the cause gone the same command ends with the records of a run without it."""

import os
import shutil
import subprocess

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
