"""A model whose losses turn NaN at a byte: recorded as null, counted, and never in the way of what follows; by every
command that losses go through."""

import json
import shutil

import numpy
import pytest
from cli_support import ROOT, needs_binary, refused, stuffed
from safetensors.numpy import load_file, save_file

pytestmark = needs_binary
GOOD = ROOT / "tests" / "models" / "mamba2-short"
AT, LENGTH = 40, 128  # the byte's position, and targets a document
LOST = LENGTH - AT  # inputs from there on know nothing but NaN
METRICS = ROOT / "src" / "eval" / "compare"


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """The good model, but that the embedding of ? is NaN; its head is the good one's."""
    folder = tmp_path_factory.mktemp("bad")
    shutil.copy(GOOD / "stuffed_tokenizer.json", folder)
    weights = load_file(GOOD / "model.safetensors")
    table = weights["backbone.embeddings.weight"]
    weights["lm_head.weight"] = table.copy()
    table[ord("?")] = numpy.nan
    save_file(weights, folder / "model.safetensors")
    config = json.loads((GOOD / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    plain = (ROOT / "tests" / "models" / "text" / "james.txt").read_text().replace("?", ".")[: LENGTH + 1]
    (folder / "a.txt").write_text(plain)
    (folder / "b.txt").write_text(plain[:AT] + "?" + plain[AT + 1 :])
    (folder / "c.txt").write_text(plain[::-1])
    return [folder / f"{name}.txt" for name in "abc"]


SWEEP = """
[defaults]
device = "cpu"
model = "{model}"
[[runs]]
command = "ppl-by-length"
text = {texts}
length = {length}
bucket = 32
batch-size = 3
[runs.grid]
part = [[], "0/2", "1/2"]
[[runs]]
command = "state-stats"
text = {texts}
length = {length}
stride = 32
documents = 3
[[runs]]
command = "passkey"
lengths = [512]
depths = 1
trials = 2
"""


def sweep(folder, model, texts, more=""):
    """The cells' records by key, and the folder."""
    text = SWEEP.format(model=model, texts=json.dumps([str(text) for text in texts]), length=LENGTH)
    (folder / "s.toml").write_text(text.replace("[defaults]", f"[defaults]\n{more}"))
    return stuffed("sweep", folder / "s.toml", "-o", folder / "out")


def records(path):
    return {line["key"]: line for line in map(json.loads, path.read_text().splitlines()) if "key" in line}


def compared(*arguments):
    done = stuffed("compare", *arguments, "--across-models", "--format", "json")
    return json.loads(done.stdout)["metrics"], done


def test_nan_losses_are_recorded_and_counted_all_the_way(bad, texts, tmp_path):
    for name, model in (("bad", bad), ("good", GOOD)):
        (tmp_path / name).mkdir()
        done = sweep(tmp_path / name, model, texts)
        assert done.returncode == 0 and "5 of 5 cells done, 0 failed" in done.stdout, done.stderr
        assert stuffed("merge", tmp_path / name / "out", "-o", tmp_path / f"{name}.jsonl").returncode == 0
    out, good = tmp_path / "bad" / "out", tmp_path / "good" / "out"
    whole = records(out / "ppl-by-length-none.jsonl")
    sums = [whole[f"document={n}"]["nll_sum_nats"] for n in range(3)]
    assert [[value is None for value in row] for row in sums] == [[False] * 4, [False, True, True, True], [False] * 4]
    assert [whole[f"document={n}"]["not_finite_targets"] for n in range(3)] == [0, LOST, 0]
    assert [whole[f"document={n}"]["finite"] for n in range(3)] == [True, False, True]
    assert whole["summary"]["finite"] is False and whole["summary"]["mean_nll_nats"][0] is not None
    # The neighbours in its batch are what they are without it.
    unharmed = records(good / "ppl-by-length-none.jsonl")
    for key in ("document=0", "document=2"):
        assert whole[key] == unharmed[key]
    states = records(out / "state-stats.jsonl")
    assert states["document=1"]["finite"] is False and states["document=1"]["not_finite_states"] > 0
    assert states["document=0"]["finite"] is True and states["document=0"]["not_finite_states"] == 0
    keys = records(out / "passkey.jsonl")
    assert keys["summary/len=512"]["finite_trials"] == 0 and keys["summary/len=512"]["accuracy"] == 0
    assert all(keys[f"len=512/depth=0/trial={n}"]["answer_nll_nats"] is None for n in range(2))
    # Merged, of parts and of cells.
    parts = [out / f"ppl-by-length-{i}-2.jsonl" for i in range(2)]
    assert stuffed("merge", *parts, "-o", tmp_path / "parts.jsonl").returncode == 0
    assert records(tmp_path / "parts.jsonl") == whole
    cells = records(tmp_path / "bad.jsonl")
    assert cells["ppl-by-length-none/document=1"]["not_finite_targets"] == LOST
    # Compared: beyond every limit, and counted.
    metrics, _ = compared(good / "ppl-by-length-none.jsonl", tmp_path / "parts.jsonl")
    assert metrics["not_finite"] == LOST and metrics["nll_mean"] is None
    limit = ["--fail-above", "nll_mean=1e300"]
    refused(compared(good / "ppl-by-length-none.jsonl", tmp_path / "parts.jsonl", *limit)[1], 1, "nll_mean is inf")
    metrics, _ = compared(good / "passkey.jsonl", out / "passkey.jsonl", "--fail-above", "passkey_accuracy_drop=1")
    assert metrics["answer_nll_mean"] is None
    metrics, _ = compared(tmp_path / "good.jsonl", tmp_path / "bad.jsonl")
    assert metrics["not_finite"] >= LOST
    # These results are not older than any metric: with them every one that is listed was seen.
    listed = {line.split()[0] for line in stuffed("compare", "--list-metrics").stdout.splitlines()[1:]}
    seen = set(metrics) | set(compared(good / "state-stats.jsonl", good / "state-stats.jsonl")[0])
    assert {"bits_per_byte", "nll_mean_low", "alpha_max"} <= seen <= listed
    # Asked for afterwards, finite numbers are looked for in what is done.
    refused(sweep(tmp_path / "bad", bad, texts, "fail-nonfinite = true"), 6, "3 cells failed")


def test_a_sweep_that_asks_for_finite_numbers_fails_each_time_until_they_are(bad, texts, tmp_path):
    asks = "fail-nonfinite = true"
    done = sweep(tmp_path, bad, texts, asks)
    refused(done, 6, "cells failed")
    failed = [cell["name"] for cell in json.loads((tmp_path / "out" / "sweep.json").read_text())["cells"]
              if cell["status"] == "failed"]  # fmt: skip
    assert failed == ["ppl-by-length-none", "ppl-by-length-1-2", "state-stats"]  # the first part is without it
    # What failed is asked again, though its journal is finished: nothing is fed for that.
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.jsonl")}
    refused(sweep(tmp_path, bad, texts, asks), 6, "3 cells failed")
    assert {path: path.read_bytes() for path in before} == before
    assert sweep(tmp_path, bad, texts).returncode == 0
    assert not list((tmp_path / "out").glob("*.error.json"))
