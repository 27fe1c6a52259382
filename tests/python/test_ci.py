"""The regression check of configs/ci: every family against stored results, quickly, and what it would catch."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time

import pytest
from cli_support import ROOT, needs_binary, refused, stuffed

CI = ROOT / "configs" / "ci"
EXPECTED = CI / "expected.jsonl"
NEAR = ["--atol", "1e-4", "--rtol", "1e-3"]


@needs_binary
def test_every_family_gives_the_stored_results_within_a_minute(tmp_path):
    begin, before = time.monotonic(), os.times()
    done = stuffed("sweep", CI / "all.toml", "-o", tmp_path / "ci", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    done = stuffed("merge", tmp_path / "ci", "-o", tmp_path / "ci.jsonl")
    assert done.returncode == 0, done.stderr
    done = stuffed("compare", EXPECTED, tmp_path / "ci.jsonl", *NEAR, "--fail-above", "passkey_accuracy_drop=0")
    assert done.returncode == 0, done.stdout
    after = os.times()
    seconds = sum(after[2:4]) - sum(before[2:4])  # of processors: what runs beside it does not count
    print(f"{time.monotonic() - begin:.1f} s, of processors {seconds:.1f} s")
    assert seconds < 60
    cells = json.loads(EXPECTED.read_text().splitlines()[0])["config"]["cells"]
    families = {cell["config"]["model"]["family"] for cell in cells if cell["schema"] == "stuffed.ppl_by_length"}
    assert families == {"mamba1", "mamba2", "rwkv5", "rwkv6", "rwkv7", "hgrn2"}


@needs_binary
def test_a_regression_of_a_thousandth_is_caught(tmp_path):
    lines = [json.loads(line) for line in EXPECTED.read_text().splitlines()]
    for line in lines:
        if "nll_sum_nats" in line:
            line["nll_sum_nats"] = [value * 1.001 for value in line["nll_sum_nats"]]
    (tmp_path / "worse.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    limit = ["--fail-above", "nll_mean_relative=0.0009"]
    refused(stuffed("compare", EXPECTED, tmp_path / "worse.jsonl", *limit), 1, "nll_mean_relative")
    assert stuffed("compare", EXPECTED, EXPECTED, *limit).returncode == 0


@pytest.mark.parametrize("script", ["scripts/slurm/sweep.sbatch", "scripts/slurm/train.sbatch"])
def test_scripts_are_bash(script):
    done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("tool", "arguments", "file"),
    [
        ("check-jsonschema", ["--builtin-schema", "vendor.github-workflows"], "github-actions.yml"),
        ("hadolint", ["--failure-threshold", "style"], "Dockerfile"),
    ],
)
def test_examples_pass_their_linters(tool, arguments, file):
    found = shutil.which(tool, path=str(pathlib.Path(sys.executable).parent)) or shutil.which(tool)
    if found is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([found, *arguments, CI / file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"has never been (run|built)", (CI / file).read_text()), "says that it was not tried"
