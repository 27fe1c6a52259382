"""What the tests of the command line share: the binary, how it is run, and how a refusal must look."""

import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
DATA = ROOT / "tests" / "data"
FAMILIES = re.findall(r"FAMILY\((\w+)\)", (ROOT / "src" / "models" / "families.inc").read_text())
# A checkpoint of each in tests/golden.
GOLDENS = [sorted(path.name for path in GOLDEN.glob(f"{family}-*"))[0] for family in FAMILIES]
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))

needs_binary = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


def stuffed(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    """Runs the binary on one thread, help unwrapped; standard output and error are text unless redirected."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "10000", **options.pop("env", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    command = [str(argument) for argument in (STUFFED, *arguments)]
    return subprocess.run(command, text=True, errors="replace", env=environment, timeout=300, check=False, **options)


def refused(done: subprocess.CompletedProcess, code: int, *parts: object) -> None:
    """One clear message, with this exit code, that contains every part."""
    assert done.returncode == code, f"exit code {done.returncode}, expected {code}: {done.stderr}"
    message = done.stderr.strip().splitlines()[-1] if code != 2 else done.stderr
    assert done.stderr.count("stuffed: ") == 1, done.stderr
    for part in parts:
        assert str(part) in message, f"{part!r} is not in: {message}"
