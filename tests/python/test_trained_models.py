"""The trained models of tests/models: transformers finds the same in them, and they show what the demo says."""

import json
import os
import pathlib
import random
import subprocess

import numpy as np
import pytest
import stuffed_results
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
MODELS = ROOT / "tests" / "models"

pytestmark = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([STUFFED, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize("name", ["mamba2-short", "mamba2-long", "mamba2-passkey"])
def test_transformers_finds_the_same_logits(name, tmp_path):
    torch = pytest.importorskip("torch", reason="STUFFED_LIBTORCH names a LibTorch without Python's torch")
    import transformers  # after torch, which it needs

    text = (MODELS / "text" / "romans.txt").read_bytes()[:301]
    (tmp_path / "text.txt").write_bytes(text)
    arguments = ["--text", tmp_path / "text.txt", "--bucket", "100", "--segment", "128"]
    nll = tmp_path / "nll.safetensors"
    run("ppl-by-length", "--model", MODELS / name, *arguments, "-o", tmp_path / "x.jsonl", "--per-token", nll)
    tokens = torch.tensor(list(text))[None]
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(tokens, use_cache=False).logits[0]
    # Every logit takes part in its row's loss; the losses of 300 rows agree to rounding.
    theirs = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none").numpy()
    ours = load_file(nll)["nll"][0]
    assert np.sqrt(np.mean((ours - theirs) ** 2)) <= 1e-5 * np.sqrt(np.mean(theirs**2)) + 1e-6
    prompt = ["--prompt-file", tmp_path / "text.txt", "--max-new-tokens", "1", "--json"]
    greedy = json.loads(run("generate", "--model", MODELS / name, *prompt).stdout)
    assert greedy["new_tokens"] == [int(logits[-1].argmax())]


def loss_on_repeats(name, train_len, tmp_path, width=10):
    files = []
    for i in range(2):
        rng = random.Random(i)
        string = "".join(chr(rng.randint(0x20, 0x7E)) for _ in range(width))
        files.append(tmp_path / f"{i}.txt")
        files[-1].write_text((string * (2049 // width + 1))[:2049])
    out = tmp_path / f"{name}.jsonl"
    options = ["--bucket", "32", "--train-len", train_len, "--batch-size", "2"]
    run("ppl-by-length", "--model", MODELS / name, "--text", *files, *options, "-o", out)
    return stuffed_results.read(out).summary


def test_the_twin_trained_short_collapses_and_the_other_does_not(tmp_path):
    short = loss_on_repeats("mamba2-short", "128", tmp_path)
    long = loss_on_repeats("mamba2-long", "1K", tmp_path)
    assert max(short["mean_nll_nats"][1:4]) < 0.5 and short["mean_nll_nats"][-1] > 4
    assert 128 < short["collapse"]["onset_tokens"] <= 1024
    assert max(long["mean_nll_nats"][1:]) < 0.5
    assert long["collapse"]["onset_tokens"] == "unknown"  # 2K is less than eight times the training length


def test_so_it_is_with_rwkv6(tmp_path):
    short = loss_on_repeats("rwkv6-short", "128", tmp_path, width=40)
    long = loss_on_repeats("rwkv6-long", "1K", tmp_path, width=40)
    assert max(short["mean_nll_nats"][2:4]) < 0.5 and short["mean_nll_nats"][-1] > 2
    assert max(long["mean_nll_nats"][4:]) < 0.1


def test_the_passkey_is_found_within_the_training_length_and_lost_beyond(tmp_path):
    out = tmp_path / "passkey.jsonl"
    sizes = ["--lengths", "512,1K,6K", "--depths", "3", "--trials", "3"]
    run("passkey", "--model", MODELS / "mamba2-passkey", *sizes, "-o", out)
    found = {}
    for record in stuffed_results.read(out).records.values():
        if "passkey" in record:
            found.setdefault(record["length_tokens"], []).append(record["correct"])
    assert np.mean(found[512]) >= 0.95 and np.mean(found[1024]) >= 0.85
    assert np.mean(found[6144]) <= 0.5


def recall(task, out, *size):
    options = ["--device", "cpu", "--vocabulary", "256", "--trials", "10", "--depths", "4"]
    run("retrieval", "--task", task, "--model", MODELS / "mamba2-mqar", *options, *size, "-o", out)
    return stuffed_results.read(out)


def accuracy(results, length):
    return results.records[f"summary/len={length}"]["accuracy"]


def test_the_recall_model_solves_what_it_was_trained_on_and_not_what_is_longer_or_holds_more(tmp_path):
    few = recall("mqar", tmp_path / "few.jsonl", "--pairs", "2", "--lengths", "32,64,128,256")
    assert accuracy(few, 32) == 1 and accuracy(few, 64) > 0.9
    assert accuracy(few, 256) < 0.4
    near, far = (few.records["summary/len=128"]["depths"][depth]["accuracy"] for depth in (3, 0))
    assert near > 0.7 and far < 0.3  # pairs near the end are found, those of the beginning are not
    many = recall("mqar-forget", tmp_path / "many.jsonl", "--pairs", "8", "--lengths", "64")
    assert accuracy(many, 64) < 0.6
    asked = [
        (updated, found)
        for record in many.records.values()
        if "updated" in record
        for updated, found in zip(record["updated"], record["found"], strict=True)
    ]
    share = {which: np.mean([found for updated, found in asked if updated == which]) for which in (True, False)}
    assert share[True] > share[False]  # what came last is remembered best
