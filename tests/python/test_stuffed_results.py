"""The one parser of results reads every version kept in tests/golden/results, and refuses what it cannot know."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest
import stuffed_results
from cli_support import GOLDEN, ROOT, needs_binary, stuffed

SAMPLES = sorted((GOLDEN / "results").glob("*.jsonl"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_every_sample_is_read(path):
    run = stuffed_results.read(path)
    assert run.finished and run.records
    assert path.name == f"{run.schema.removeprefix('stuffed.')}.v{run.version}.jsonl"


def test_a_newer_version_is_refused(tmp_path):
    lines = SAMPLES[0].read_text().splitlines(keepends=True)
    header = json.loads(lines[0])
    header["version"] += 1
    path = tmp_path / "newer.jsonl"
    path.write_text(json.dumps(header) + "\n" + "".join(lines[1:]))
    with pytest.raises(stuffed_results.ResultsError, match="newer stuffed"):
        stuffed_results.read(path)


@pytest.mark.parametrize(
    "text", ["", "no journal", "no journal\n", "[]\n", '{"schema":"stuffed.other","version":1,"config":{}}\n']
)
def test_what_is_no_journal_is_refused(tmp_path, text):
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    with pytest.raises(stuffed_results.ResultsError):
        stuffed_results.read(path)


def test_a_torn_last_line_is_ignored(tmp_path):
    path = tmp_path / "torn.jsonl"
    whole = (ROOT / "tests" / "golden" / "results" / "ppl_by_length.v1.jsonl").read_bytes()
    end = whole.rindex(b'{"end"')
    path.write_bytes(whole[: end + 5])
    run = stuffed_results.read(path)
    assert not run.finished and "summary" in run.records


def test_the_plot_is_drawn(tmp_path):
    sample = ROOT / "tests" / "golden" / "results" / "ppl_by_length.v1.jsonl"
    for name, more in (("a.png", []), ("b.pdf", ["--log-x", "--perplexity"])):
        subprocess.run(
            [sys.executable, ROOT / "scripts" / "plot" / "plot_ppl_by_length.py", sample, "-o", tmp_path / name, *more],
            check=True,
        )
        assert (tmp_path / name).stat().st_size > 5000


@needs_binary
def test_the_command_of_the_state_stats_sample_takes_it_for_its_own(tmp_path):
    before = {}
    for end in ("jsonl", "safetensors"):
        sample = GOLDEN / "results" / f"state_stats.v1.{end}"
        before[pathlib.Path(shutil.copy(sample, tmp_path))] = sample.read_bytes()
    model = GOLDEN / "mamba2-hf"
    options = ["--segment", 512, "--stride", 128, "--train-len", 512, "--histogram-at", "512,1920", "--top", 5]
    data = ["--tokens", model / "golden.safetensors", "--tokens-key", "long_tokens", "--histogram-bins", 20]
    device = ["--device", "cpu", "-o", tmp_path / "state_stats.v1.jsonl"]
    done = stuffed("state-stats", "--model", model, *data, *options, *device)
    assert done.returncode == 0 and "heads whose state grows most" in done.stdout, done.stderr
    assert all(path.read_bytes() == content for path, content in before.items())
