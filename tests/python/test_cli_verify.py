"""verify from outside: sound models and kernels agree, and a broken implementation ends in exit code 1."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
GOLDEN = ROOT / "tests" / "golden"
sys.path.insert(0, str(ROOT / "scripts"))
import stuffed_results  # noqa: E402

pytestmark = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


def verify(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([STUFFED, "verify", *arguments], capture_output=True, text=True, env=environment)


def test_a_sound_model_agrees_on_every_path(tmp_path):
    out = tmp_path / "v.jsonl"
    done = verify(GOLDEN / "mamba2-hf", "--length", "80", "--device", "cpu", "-o", out)
    assert done.returncode == 0, done.stderr
    run = stuffed_results.read(out, "stuffed.verify")
    assert run.finished
    found = {(r["dtype"], r["impl"], r["path"]) for r in run.records.values()}
    ran = {"whole": "tiled", "one by one": "step", "segments of 37": "tiled"}
    assert found == {(d, ran[p], p) for d in ("f32", "bf16") for p in ran} | {("bf16", "reference", "whole")}
    assert all(r["verdict"] == "agrees" and r["finite"] for r in run.records.values())
    assert all(0 <= r["output_relative_rms"] <= r["output_bound"] for r in run.records.values())
    assert done.stdout.splitlines()[-1] == "7 agree, 0 disagree, 0 not run"


@pytest.mark.parametrize("model", ["hgrn2-fla", "rwkv6-pth"])
@pytest.mark.parametrize("broken", ["chunked", "reference"])
def test_one_percent_in_either_implementation_is_exit_code_1(tmp_path, model, broken):
    out = tmp_path / "v.jsonl"
    done = verify(GOLDEN / model, "--length", "60", "--device", "cpu", "--dtype", "f32", "--break", broken, "-o", out)
    assert done.returncode == 1 and "disagree" in done.stderr, done.stderr
    records = stuffed_results.read(out).records.values()
    assert all(r["verdict"] == "DISAGREES" and r["state_relative_rms"] > 1e-3 for r in records)


def test_kernels_agree_and_a_broken_one_does_not():
    arguments = ["--kernels", "--family", "rwkv6", "--device", "cpu"]
    done = verify(*arguments)
    assert done.returncode == 0 and "12 agree, 0 disagree" in done.stdout, done.stdout + done.stderr
    done = verify(*arguments, "--break", "chunked")
    assert done.returncode == 1 and "0 agree, 12 disagree" in done.stdout, done.stdout + done.stderr
    done = verify(*arguments, "--break", "step")
    assert done.returncode == 1 and "6 agree, 6 disagree" in done.stdout, done.stdout + done.stderr


def test_a_text_and_long_streams_are_compared_too(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("How many tokens does a byte make? One. " * 4)
    model, out = GOLDEN / "rwkv5-pth", tmp_path / "v.jsonl"
    arguments = ["--device", "cpu", "--dtype", "f32", "--tokenizer", "bytes", "--text", text, "-o", out]
    done = verify(model, *arguments, "--length", "50", "--segments", "7,50", "--long", "300", "--piece", "64")
    assert done.returncode == 0 and "no segments of 50: the stream has 50 tokens" in done.stderr, done.stderr
    records = list(stuffed_results.read(out).records.values())
    assert [(r["path"], r["tokens"]) for r in records] == [("whole", 50), ("segments of 7", 50), ("whole", 300)]
    assert records[2]["against"] == "cpu f32 aten, segments of 64"
    short = verify(model, *arguments, "--overwrite", "--length", "5000")
    assert short.returncode == 3, short.stderr


def test_without_a_gpu_its_rows_are_listed_as_not_run():
    done = verify(GOLDEN / "mamba1-hf", "--length", "20", "--dtype", "f32")
    assert done.returncode == 0, done.stderr
    assert "not run: no GPU is visible" in done.stdout or " cuda " in done.stdout


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, []),
        (2, [GOLDEN / "mamba2-hf", "--kernels"]),
        (2, [GOLDEN / "mamba2-hf", "--segments", "0"]),
        (3, ["nowhere"]),
        (7, ["--kernels", "--family", "mamba2", "--device", "cpu", "-o", "/proc/v.jsonl"]),
    ],
)
def test_what_is_wrong_has_its_exit_code(code, arguments):
    done = verify(*arguments)
    assert done.returncode == code and len(done.stderr.strip().splitlines()) <= 2, done.stderr
