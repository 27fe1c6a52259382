"""bench_regress on files written here: within and beyond the limit, refused, missing, of another machine."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def timed(seconds, spread=0.01):
    return {
        "verdict": "timed",
        "seconds_median": seconds,
        "spread": spread,
        "ns_per_token_per_layer": seconds * 1e3,
    }


def write(path, records, device="H100"):
    header = {"schema": "stuffed.bench", "version": 1, "config": {}, "provenance": {"device_name": device}}
    lines = [header, *({"key": key, **fields} for key, fields in records.items())]
    lines.append({"end": True, "records": len(records)})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def regress(*arguments):
    command = [sys.executable, ROOT / "scripts" / "bench" / "regress.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("after", "code", "word"),
    [(1.0, 0, "same"), (1.029, 0, "same"), (1.031, 1, "SLOWER"), (2.0, 1, "SLOWER"), (0.9, 0, "faster")],
)
def test_three_percent_is_the_limit(tmp_path, after, code, word):
    old = write(tmp_path / "a.jsonl", {"scan/a": timed(1.0), "scan/b": timed(1.0)})
    new = write(tmp_path / "b.jsonl", {"scan/a": timed(1.0), "scan/b": timed(after)})
    done = regress(old, new)
    assert done.returncode == code and word in done.stdout, done.stdout + done.stderr
    assert f"{after:.3f}" in done.stdout


def test_the_limit_can_be_set(tmp_path):
    old, new = write(tmp_path / "a.jsonl", {"k": timed(1)}), write(tmp_path / "b.jsonl", {"k": timed(1.08)})
    assert regress(old, new, "--limit", "10").returncode == 0
    assert regress(old, new, "--limit", "5").returncode == 1
    assert regress(old, new, "--limit", "-1").returncode == 2


@pytest.mark.parametrize("now", [None, {"verdict": "REFUSED"}, {"verdict": "out of memory"}])
def test_what_was_timed_and_is_no_longer_is_a_regression(tmp_path, now):
    old = write(tmp_path / "a.jsonl", {"k": timed(1), "other": timed(1)})
    new = write(tmp_path / "b.jsonl", {"other": timed(1)} | ({"k": now} if now else {}))
    assert regress(old, new).returncode == 1
    assert regress(new, old).returncode == 0  # new, or right again


def test_spread_beyond_the_limit_is_named(tmp_path):
    old, new = write(tmp_path / "a.jsonl", {"k": timed(1)}), write(tmp_path / "b.jsonl", {"k": timed(1, 0.2)})
    done = regress(old, new)
    assert done.returncode == 0 and "same (noisy)" in done.stdout and "20.0 %" in done.stdout


def test_other_machines_and_other_files_are_refused(tmp_path):
    old = write(tmp_path / "a.jsonl", {"k": timed(1)})
    new = write(tmp_path / "b.jsonl", {"k": timed(1)}, device="A100")
    assert regress(old, new).returncode == 3
    assert regress(old, new, "--any-machine").returncode == 0
    assert regress(old, tmp_path / "none.jsonl").returncode == 3
    assert regress(old, ROOT / "tests" / "golden" / "results" / "ppl_by_length.v1.jsonl").returncode == 3
