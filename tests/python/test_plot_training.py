"""scripts/plot/plot_training.py draws journals of today and of before, finished or not."""

import subprocess
import sys

import pytest
from cli_support import ROOT

SCRIPT = ROOT / "scripts" / "plot" / "plot_training.py"
OLD = ROOT / "tests" / "golden" / "results" / "train.v1.jsonl"


def draw(*arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("cut", [False, True])
def test_a_journal_is_drawn_as_far_as_it_is(cut, tmp_path):
    journal = tmp_path / "train.jsonl"
    lines = OLD.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1] if cut else lines))
    done = draw(journal, OLD, "-o", tmp_path / "figure.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_another_commands_results_are_refused(tmp_path):
    other = OLD.parent / "passkey.v1.jsonl"
    done = draw(other, "-o", tmp_path / "figure.png")
    assert done.returncode == 3 and "expected stuffed.train" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "figure.png").exists()
