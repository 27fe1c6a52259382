"""ppl-by-length from outside: killed and resumed, refused, and on places that cannot be written."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
MODEL = ROOT / "tests" / "golden" / "mamba2-hf"
LENGTH, DOCUMENTS = 300, 6

pytestmark = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


@pytest.fixture
def tokens(tmp_path):
    vocab = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    path = tmp_path / "tokens.safetensors"
    save_file({"tokens": np.random.default_rng(0).integers(0, vocab, (DOCUMENTS, LENGTH + 1))}, path)
    return path


def command(tokens, out, *more):
    return [
        STUFFED,
        "ppl-by-length",
        "--model",
        MODEL,
        "--tokens",
        tokens,
        "--segment",
        "64",
        "--bucket",
        "50",
        "-o",
        out,
        *more,
    ]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # other numbers of threads round sums otherwise


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, env=ONE_THREAD, **options)


def records(path):
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.startswith(b'{"key"')]


def test_one_record_per_document_and_a_summary_that_agrees_with_every_token(tokens, tmp_path):
    out, sidecar = tmp_path / "a.jsonl", tmp_path / "a.safetensors"
    done = run(*command(tokens, out, "--per-token", sidecar))
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in records(out)]
    assert [record["key"] for record in found] == [f"document={i}" for i in range(DOCUMENTS)] + ["summary"]
    nll = load_file(sidecar)["nll"]
    assert nll.shape == (DOCUMENTS, LENGTH) and nll.dtype == np.float32
    buckets = nll.astype(np.float64).reshape(DOCUMENTS, -1, 50)
    np.testing.assert_allclose([record["nll_sum_nats"] for record in found[:-1]], buckets.sum(2), rtol=1e-12)
    summary = found[-1]
    np.testing.assert_allclose(summary["mean_nll_nats"], buckets.mean((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(
        summary["standard_error_nats"], buckets.mean(2).std(0, ddof=1) / DOCUMENTS**0.5, rtol=1e-9
    )
    assert found[0]["impl"] == "tiled" and found[0]["segment_tokens"] == 64


@pytest.mark.parametrize(
    ("impl", "segment", "ran"),
    [("auto", "64", "tiled"), ("chunked", "8", "step"), ("auto", "1K", "tiled"), ("aten", "64", "aten")],
)
def test_a_record_names_the_program_that_ran_its_segments(tokens, tmp_path, impl, segment, ran):
    out = tmp_path / "a.jsonl"
    arguments = command(tokens, out, "--documents", "1", "--length", "70", "--impl", impl)
    arguments[arguments.index("--segment") + 1] = segment
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert {json.loads(line)["impl"] for line in records(out)} == {ran}


def test_a_journal_from_before_the_programs_had_names_is_resumed(tokens, tmp_path):
    whole, old = tmp_path / "whole.jsonl", tmp_path / "old.jsonl"
    assert run(*command(tokens, whole)).returncode == 0
    header, *lines = whole.read_bytes().splitlines(keepends=True)
    old.write_bytes(header + b"".join(line.replace(b'"impl":"tiled"', b'"impl":"chunked"') for line in lines[:2]))
    done = run(*command(tokens, old))
    assert done.returncode == 0, done.stderr
    before, after = ([json.loads(line) for line in records(path)] for path in (whole, old))
    assert [record.pop("impl") for record in after] == ["chunked"] * 2 + ["tiled"] * (DOCUMENTS - 1)
    assert after == [{key: value for key, value in record.items() if key != "impl"} for record in before]


def test_a_record_does_not_depend_on_which_documents_share_its_batch(tokens, tmp_path):
    ids = load_file(tokens)["tokens"]
    order = [5, 0, 3, 1, 4, 2]
    shuffled = tmp_path / "shuffled.safetensors"
    save_file({"tokens": ids[order]}, shuffled)
    found = {}
    for name, path, size in (("plain", tokens, "4"), ("shuffled", shuffled, "4"), ("alone", tokens, "1")):
        out, nll = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.nll.safetensors"
        done = run(*command(path, out, "--batch-size", size, "--per-token", nll))
        assert done.returncode == 0, done.stderr
        found[name] = [json.loads(r)["nll_sum_nats"] for r in records(out)[:DOCUMENTS]], load_file(nll)["nll"]
    # Batches of 4 and 2 (filled up to 4) in other company: the same bits. Another batch size: rounding.
    assert [found["plain"][0][i] for i in order] == found["shuffled"][0]
    assert np.array_equal(found["plain"][1][order], found["shuffled"][1])
    np.testing.assert_allclose(found["plain"][1], found["alone"][1], rtol=1e-4, atol=1e-4)


def test_documents_of_several_lengths_are_batched_by_length(tmp_path):
    out, nll = tmp_path / "out.jsonl", tmp_path / "nll.safetensors"
    sizes = [120, 120, 90, 120]
    texts = []
    for i, size in enumerate(sizes):
        texts.append(tmp_path / f"{i}.txt")
        texts[-1].write_text("".join(chr(97 + (i * 7 + j * j) % 26) for j in range(size)))
    model = ["--model", MODEL, "--tokenizer", "bytes", "--bucket", "30", "--segment", "50", "--batch-size", "3"]
    done = run(STUFFED, "ppl-by-length", *model, "--text", *texts, "-o", out, "--per-token", nll)
    assert done.returncode == 0, done.stderr
    found = [json.loads(r) for r in records(out)[:4]]
    assert [r["targets"] for r in found] == [size - 1 for size in sizes]
    for record, row, size in zip(found, load_file(nll)["nll"], sizes, strict=True):
        assert np.isnan(row[size - 1 :]).all() and np.isfinite(row[: size - 1]).all()
        assert sum(record["nll_sum_nats"]) == pytest.approx(row[: size - 1].astype(np.float64).sum(), rel=1e-9)


@pytest.mark.parametrize("batch", ["1", "4"])
def test_killed_at_random_it_ends_with_the_same_bytes(tokens, tmp_path, batch):
    batched = ["--batch-size", batch]
    whole, whole_nll = tmp_path / "whole.jsonl", tmp_path / "whole.safetensors"
    begin = time.monotonic()
    assert run(*command(tokens, whole, "--per-token", whole_nll, *batched)).returncode == 0
    seconds = time.monotonic() - begin
    rng = random.Random(int(os.environ.get("STUFFED_TEST_SEED", "3")))
    out, nll = tmp_path / "killed.jsonl", tmp_path / "killed.safetensors"
    for _ in range(4):
        process = subprocess.Popen(
            command(tokens, out, "--per-token", nll, *batched),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ONE_THREAD,
        )
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(*command(tokens, out, "--per-token", nll, *batched)).returncode == 0
    assert records(out) == records(whole)
    assert nll.read_bytes() == whole_nll.read_bytes()


@pytest.mark.parametrize("kept", [0, 1, DOCUMENTS - 1, DOCUMENTS])
def test_finished_records_are_not_computed_again(tokens, tmp_path, kept):
    out = tmp_path / "run.jsonl"
    assert run(*command(tokens, out)).returncode == 0
    lines = out.read_bytes().splitlines(keepends=True)
    marked = [line.replace(b'"document":', b'"document" :') for line in lines[1 : 1 + kept]]  # shows if it is rewritten
    torn = lines[1 + kept][:20]
    out.write_bytes(lines[0] + b"".join(marked) + torn)
    assert run(*command(tokens, out)).returncode == 0
    assert out.read_bytes().splitlines(keepends=True)[1:] == marked + lines[1 + kept :]


def test_another_config_is_refused_by_the_name_of_its_field(tokens, tmp_path):
    out = tmp_path / "run.jsonl"
    assert run(*command(tokens, out)).returncode == 0
    before = out.read_bytes()
    refused = run(*command(tokens, out, "--bucket", "25"))
    assert refused.returncode == 2 and "--bucket" in refused.stderr  # given twice
    other = [a if a != "50" else "25" for a in command(tokens, out)]
    refused = run(*other)
    assert refused.returncode == 2 and "bucket_tokens: 50 there, 25 here" in refused.stderr, refused.stderr
    assert out.read_bytes() == before
    assert run(*other, "--overwrite").returncode == 0


@pytest.mark.parametrize("place", ["/dev/full", "/proc/run.jsonl"])
def test_a_place_that_cannot_be_written_is_exit_code_7(tokens, place):
    assert run(*command(tokens, place)).returncode == 7


@pytest.mark.parametrize(
    "more",
    [
        ["--length", "0"],
        ["--no-such-flag"],
        ["--bucket", "100", "--train-len", "200"],
        ["--prompt", "newlines"],
        ["--documents", "-1"],
    ],
)
def test_wrong_usage_is_exit_code_2(tokens, tmp_path, more):
    arguments = [
        a for a in command(tokens, tmp_path / "x.jsonl") if not ("--bucket" in more and a in ("--bucket", "50"))
    ]
    done = run(*arguments, *more)
    assert done.returncode == 2, done.stderr


def test_unknown_config_keys_are_exit_code_2_and_known_ones_count(tokens, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text('segmnet = "64"\n')
    done = run(*command(tokens, tmp_path / "x.jsonl"), "--config", config)
    assert done.returncode == 2 and "segmnet" in done.stderr
    config.write_text("train_len = 200\n")
    out = tmp_path / "y.jsonl"
    assert run(*command(tokens, out), "--config", config).returncode == 0
    assert json.loads(out.read_bytes().splitlines()[0])["config"]["train_len_tokens"] == 200


def test_bad_inputs_are_exit_code_3(tmp_path):
    out = tmp_path / "x.jsonl"
    text = tmp_path / "text.txt"
    text.write_bytes(b"ab\xffcd" * 100)
    common = [STUFFED, "ppl-by-length", "--model", MODEL, "-o", out]
    missing = run(*common, "--text", text)
    assert missing.returncode == 3 and "tokenizer.json" in missing.stderr, missing.stderr
    ids = tmp_path / "ids.safetensors"
    save_file({"tokens": np.full((1, 9), 10**6)}, ids)
    outside = run(*common, "--tokens", ids)
    assert outside.returncode == 3 and "1000000" in outside.stderr, outside.stderr


def test_a_mitigation_that_is_too_slow_for_the_length_is_refused_unless_forced(tokens, tmp_path):
    limits = tmp_path / "limits.safetensors"
    clamp = ["--mitigation", f"clamp_norm:limits={limits},every=1"]
    done = run(*command(tokens, tmp_path / "x.jsonl", "--length", "128K", *clamp))
    assert done.returncode != 0
    stats = [STUFFED, "state-stats", "--model", MODEL, "--tokens", tokens, "--length", "64", "--stride", "32"]
    made = run(*stats, "--train-len", "64", "-o", tmp_path / "limits.jsonl", "--overwrite")
    assert made.returncode == 0, made.stderr
    done = run(*command(tokens, tmp_path / "x.jsonl", "--length", "128K", *clamp))
    assert done.returncode == 2 and "--force" in done.stderr, done.stderr
    forced = run(*command(tokens, tmp_path / "x.jsonl", "--length", "128K", *clamp, "--force"))
    assert forced.returncode == 3, forced.stderr  # it goes on, and finds the documents too short
