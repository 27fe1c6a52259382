"""scripts/bench/cpu.py on a tiny model, so that it still runs when it is needed; no peers."""

import json
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
SCRIPT = ROOT / "scripts" / "bench" / "cpu.py"
TINY = ["--width", "32", "--layers", "2", "--state", "16", "--head", "16", "--vocab", "300"]

pytestmark = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


def bench(*arguments, **environment):
    command = [sys.executable, SCRIPT, *TINY, "--tokens", "64", "--repeats", "1", "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_ours_alone_is_measured(tmp_path):
    out = tmp_path / "cpu.json"
    done = bench("--peers", "--dtype", "f32", "--decode-steps", "4", "--folder", tmp_path, "-o", out)
    assert done.returncode == 0, done.stderr
    record = json.loads(out.read_text())
    assert record["schema"] == "stuffed.bench_cpu" and record["config"]["tokens"] == 64
    ours = record["dtypes"]["f32"]["rows"]["stuffed"]
    assert ours["tokens_per_second"]["median"] > 0
    assert len(ours["decode_ms"]["all"]) == 1
    assert 4 < ours["nll"] < 9  # log 300 is 5.7
    memory = record["dtypes"]["f32"]["memory_bytes"]
    assert memory["above"] == memory["peak"] - memory["weights"] - memory["version"]
    assert "stuffed" in done.stdout and "tokens/s" in done.stdout
    assert os.listdir(tmp_path) == ["cpu.json"]  # the models are gone


def test_a_peer_that_is_not_installed_is_listed(tmp_path):
    arguments = ("--dtype", "f32", "--decode-steps", "0", "--peers", "llama.cpp", "--folder", tmp_path)
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "gguf.py").write_text("raise ModuleNotFoundError('no gguf here')\n")
    done = bench(*arguments, PYTHONPATH=str(tmp_path / "modules"))
    assert done.returncode == 0, done.stderr
    assert "not installed: ModuleNotFoundError: no gguf here" in done.stdout
    assert "stuffed" in done.stdout and "tokens/s" in done.stdout


def test_a_peer_whose_losses_differ_is_wrong():
    sys.path.insert(0, str(SCRIPT.parent))
    import cpu

    ours = np.random.default_rng(0).normal(11, 1.5, 1000).astype(np.float32)
    assert cpu.agreement(ours, ours + 1e-4, "f32")["agrees"]
    assert not cpu.agreement(ours, ours * 1.002, "f32")["agrees"]
    shuffled = cpu.agreement(ours, ours[::-1], "f32")  # the same mean
    assert shuffled["mean_error"] < 1e-6 and not shuffled["agrees"]
    assert not cpu.agreement(ours, ours * np.float32(np.nan), "f32")["agrees"]


def test_transformers_is_fed_fewer_tokens_at_its_fastest_and_default_chunk(monkeypatch, capsys):
    sys.path.insert(0, str(SCRIPT.parent))
    import cpu

    asked = []

    class Peer:
        name = "transformers 0"

        def __init__(self, *_):
            pass

        def score(self, tokens, chunk):
            asked.append((tokens, chunk))
            return {32: 1.0}.get(chunk, 5.0), f"losses at {chunk}"

    monkeypatch.setattr(cpu, "Peer", Peer)
    args = types.SimpleNamespace(
        peers=["transformers"], pythons=[], threads=1, tokens=4096, transformers_tokens=512, true_vocab=9
    )
    contenders, missing = cpu.open_peers(args, "f32", None, None)
    assert not missing
    assert {label: rest[1:] for label, rest in contenders.items()} == {
        "transformers 0 chunk 32, 512 tokens": (512, 32, "losses at 32"),
        "transformers 0 chunk 256, 512 tokens": (512, 256, "losses at 256"),
    }
    assert max(tokens for tokens, _ in asked) == 512
    assert "chunk 256: 512 tokens in 5.0 s" in capsys.readouterr().err
    assert cpu.open_peers(args, "bf16", None, None) == ({}, {})
