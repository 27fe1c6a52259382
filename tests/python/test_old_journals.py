"""Journals that older versions wrote: the command that wrote one goes on with it, and keeps what is there."""

import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
import stuffed_results
from cli_support import GOLDEN, needs_binary, refused, stuffed
from safetensors.numpy import save_file

pytestmark = needs_binary
RESULTS = GOLDEN / "results"
MODEL = ["--model", GOLDEN / "mamba2-hf", "--device", "cpu"]


def random_tokens(path: pathlib.Path, documents: int, length: int) -> str:
    save_file({"tokens": np.random.default_rng(0).integers(0, 256, (documents, length + 1))}, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def before_batches(tmp_path):
    """A loss journal of one document from before there was --batch-size, and the command that goes on with it."""
    lines = (RESULTS / "ppl_by_length.v1.jsonl").read_text().splitlines(keepends=True)
    header = json.loads(lines[0])
    assert "batch_size" not in header["config"]
    header["config"]["data"]["sha256"] = random_tokens(tmp_path / "tokens.safetensors", 3, 512)
    journal = tmp_path / "old.jsonl"
    journal.write_text(json.dumps(header, separators=(",", ":")) + "\n" + lines[1])
    options = ["--segment", 64, "--bucket", 16, "--train-len", 64, "-o", journal]
    return journal, ["ppl-by-length", *MODEL, "--tokens", tmp_path / "tokens.safetensors", *options]


def test_losses_from_before_batches_are_gone_on_with(before_batches):
    journal, command = before_batches
    beginning = journal.read_bytes()
    done = stuffed(*command)
    assert done.returncode == 0, done.stderr
    assert journal.read_bytes().startswith(beginning)
    run = stuffed_results.read(journal, "stuffed.ppl_by_length")
    assert run.finished and list(run.records) == ["document=0", "document=1", "document=2", "summary"]
    whole = journal.read_bytes()
    assert stuffed(*command, "--batch-size", 1).returncode == 0 and journal.read_bytes() == whole


def test_one_at_a_time_is_what_they_were_measured_by(before_batches):
    journal, command = before_batches
    beginning = journal.read_bytes()
    refused(stuffed(*command, "--batch-size", 2), 2, "config.batch_size: nothing there, 2 here")
    assert journal.read_bytes() == beginning


def test_the_command_of_the_retention_sample_takes_it_for_its_own(tmp_path):
    for end in ("jsonl", "safetensors"):
        shutil.copy(RESULTS / f"retention.v1.{end}", tmp_path)
    journal = tmp_path / "retention.v1.jsonl"
    before = journal.read_bytes()
    random_tokens(tmp_path / "tokens.safetensors", 2, 48)
    options = ["--points", 6, "--at", "24,48", "--train-len", 32, "-o", journal]
    done = stuffed("retention", *MODEL, "--tokens", tmp_path / "tokens.safetensors", *options)
    assert done.returncode == 0 and "half-lives in tokens" in done.stdout, done.stderr
    assert journal.read_bytes() == before
