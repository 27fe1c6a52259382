"""Pictures from unfinished journals: drawn as far as they are, and marked; their summary is the command's own."""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
import stuffed_results
import unfinished
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
RESULTS = ROOT / "tests" / "golden" / "results"
PLOTTED = ["passkey", "ppl_by_length", "retention", "retrieval", "state_stats"]
SCRIPTS = {"retrieval": "passkey"}  # drawn by the script of another task


def lines_of(task: str) -> list[bytes]:
    return (RESULTS / f"{task}.v1.jsonl").read_bytes().splitlines(keepends=True)


def without_summary(task: str) -> list[bytes]:
    return [line for line in lines_of(task) if b'"key":"summary' not in line and not line.startswith(b'{"end"')]


def write(folder: pathlib.Path, task: str, lines: list[bytes]) -> pathlib.Path:
    """A journal that has only these lines, with its arrays in the parts that a killed run leaves."""
    path = folder / f"{task}.v1.jsonl"
    path.write_bytes(b"".join(lines))
    documents = sum(b'"key":"document=' in line for line in lines)
    arrays = RESULTS / f"{task}.v1.safetensors"
    if arrays.exists():
        parts = folder / f"{arrays.name}.partial"
        parts.mkdir()
        axes = ("positions", "layers", "heads", "histogram.positions", "variance_ratio", "limits")
        for i in range(documents):
            own = {
                name: np.ascontiguousarray(array[i])
                for name, array in load_file(arrays).items()
                if name not in axes and not name.endswith("/median") and not name.startswith("conv.")
            }
            save_file(own, parts / f"document={i}.safetensors")
    return path


def draw(task: str, journal: pathlib.Path, figure: pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "scripts" / "plot" / f"plot_{SCRIPTS.get(task, task)}.py", journal, "-o", figure]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def close(found, expected, path=""):
    """Every field that the summary so far has is as the command wrote it."""
    if isinstance(found, dict):
        for key, value in found.items():
            close(value, expected[key], f"{path}/{key}")
    elif isinstance(found, list):
        assert len(found) == len(expected), path
        for i, value in enumerate(found):
            close(value, expected[i], f"{path}/{i}")
    elif isinstance(found, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-15), path
    else:
        assert found == expected, path


@pytest.mark.parametrize("task", ["passkey", "ppl_by_length", "retention", "retrieval"])
def test_the_summary_so_far_of_all_records_is_the_commands_own(task, tmp_path):
    whole = stuffed_results.read(RESULTS / f"{task}.v1.jsonl")
    run = unfinished.so_far(stuffed_results.read(write(tmp_path, task, without_summary(task))))
    assert not run.finished
    # The half-lives of all documents are in the arrays, which have a test of their own.
    for key in (key for key in run.records if key.startswith("summary")):
        found = {name: value for name, value in run.records[key].items() if name not in ("half_life", "exploding")}
        assert found
        close(found, whole.records[key])
    assert unfinished.so_far(whole) is whole


@pytest.mark.parametrize("task", ["retention", "state_stats"])
def test_the_arrays_so_far_are_the_finished_ones(task, tmp_path):
    whole = stuffed_results.arrays(stuffed_results.read(RESULTS / f"{task}.v1.jsonl"))
    run = stuffed_results.read(write(tmp_path, task, without_summary(task)))
    found = unfinished.arrays(run)
    assert {"half_life_tokens/median"} <= set(found) or {"positions", "layers", "heads"} <= set(found)
    for name, array in found.items():
        assert array.shape == whole[name].shape, name
        np.testing.assert_array_equal(array, whole[name], err_msg=name)


@pytest.mark.parametrize("task", PLOTTED)
def test_an_unfinished_run_is_drawn_and_marked(task, tmp_path):
    lines = without_summary(task)
    lines = lines[: {"passkey": 4, "ppl_by_length": 3, "retention": 2, "retrieval": 4, "state_stats": 2}[task]]
    done = draw(task, write(tmp_path, task, lines), tmp_path / "x.svg")
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "x.svg").read_text()  # matplotlib writes each text beside its glyphs, as a comment
    records = len(lines) - 1
    assert f"{task}.v1.jsonl ({records} record{'s' if records > 1 else ''})" in picture
    assert "<!-- unfinished -->" in picture


@pytest.mark.parametrize("task", PLOTTED)
def test_a_finished_run_is_not_marked(task, tmp_path):
    done = draw(task, RESULTS / f"{task}.v1.jsonl", tmp_path / "x.svg")
    assert done.returncode == 0, done.stderr
    assert "unfinished" not in (tmp_path / "x.svg").read_text()


@pytest.mark.parametrize("task", PLOTTED)
def test_a_run_without_a_measurement_is_refused_in_one_line(task, tmp_path):
    done = draw(task, write(tmp_path, task, lines_of(task)[:1]), tmp_path / "x.svg")
    assert done.returncode == 3 and "holds no measurement yet" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "x.svg").exists()


def test_the_whole_buckets_of_a_document_at_hand_are_drawn(tmp_path):
    lines = without_summary("ppl_by_length")
    journal = write(tmp_path, "ppl_by_length", lines[:2])
    sums = np.array(json.loads(lines[2])["nll_sum_nats"])
    state = {"nll_sum.0": sums[:7], "not_finite": np.zeros(1, np.int64)}
    metadata = {
        "stuffed.checkpoint": "1",
        "journal": hashlib.sha256(lines[0]).hexdigest(),
        "place": "document=1",
        "fields": json.dumps({"records": 1, "task": {"position": 6 * 16 + 5}}),
    }
    save_file(state, tmp_path / "ppl_by_length.v1.jsonl.state", metadata)
    first = np.array(json.loads(lines[1])["nll_sum_nats"])
    means = unfinished.so_far(stuffed_results.read(journal)).summary["mean_nll_nats"]
    np.testing.assert_allclose(means[:6], (first + sums)[:6] / 32)  # six whole buckets of 16
    np.testing.assert_allclose(means[6:], first[6:] / 16)
    # A state that another journal left says nothing of this one.
    save_file(state, tmp_path / "ppl_by_length.v1.jsonl.state", {**metadata, "journal": "0" * 64})
    means = unfinished.so_far(stuffed_results.read(journal)).summary["mean_nll_nats"]
    np.testing.assert_allclose(means, first / 16)


def test_the_table_names_an_unfinished_run(tmp_path):
    journal = write(tmp_path, "ppl_by_length", without_summary("ppl_by_length")[:2])
    script = ROOT / "scripts" / "plot" / "table_ppl_by_length.py"
    done = subprocess.run([sys.executable, script, journal], capture_output=True, text=True, check=True)
    assert "ppl_by_length.v1 (unfinished)" in done.stdout


def test_lost_arrays_of_a_finished_run_are_still_refused(tmp_path):
    journal = shutil.copy(RESULTS / "retention.v1.jsonl", tmp_path)
    done = draw("retention", journal, tmp_path / "x.png")
    assert done.returncode == 3 and "retention.v1.safetensors" in done.stderr
