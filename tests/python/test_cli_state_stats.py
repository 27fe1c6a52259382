"""state-stats from outside: its arrays, killed and resumed, refused, drawn, and as limits of clamp_norm."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from cli_support import GOLDENS
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import stuffed_results  # noqa: E402

STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
GOLDEN = ROOT / "tests" / "golden"
MODEL = GOLDEN / "mamba2-hf"
SAMPLE = GOLDEN / "results" / "state_stats.v1.jsonl"
LENGTH, DOCUMENTS, STRIDE = 300, 3, 50

needs_binary = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


@pytest.fixture
def tokens(tmp_path):
    vocab = json.loads((MODEL / "config.json").read_text())["vocab_size"]
    path = tmp_path / "tokens.safetensors"
    save_file({"tokens": np.random.default_rng(0).integers(0, vocab, (DOCUMENTS, LENGTH + 1))}, path)
    return path


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # other numbers of threads round sums otherwise


def run(*arguments):
    command = [str(a) for a in arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=ONE_THREAD, check=False)


def command(tokens, out, *more, documents=DOCUMENTS, model=MODEL):
    data = [] if documents is None else ["--documents", documents]
    return [STUFFED, "state-stats", "--model", model, "--tokens", tokens, "--segment", 64, "-o", out, *data, *more]


def arrays_of(out):
    return load_file(out.with_suffix(".safetensors"))


def records(path):
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.startswith(b'{"key"')]


@needs_binary
def test_arrays_journal_and_table_agree(tokens, tmp_path):
    out = tmp_path / "a.jsonl"
    done = run(*command(tokens, out, "--stride", STRIDE, "--train-len", 150, "--histogram-at", "50,300"))
    assert done.returncode == 0, done.stderr
    assert "heads whose state grows most past the training length 150" in done.stdout
    results, a = stuffed_results.read(out, "stuffed.state_stats"), arrays_of(out)
    assert results.finished and list(results.records) == ["document=0", "document=1", "document=2", "summary"]
    assert a["positions"].tolist() == [50, 100, 150, 200, 250, 300]
    shape = (DOCUMENTS, 6, len(a["layers"]), len(a["heads"]))
    assert a["state.mean"].shape == shape and a["state.mean"].dtype == np.float64
    np.testing.assert_allclose(a["state.rms"] ** 2 * 256, a["state.norm"] ** 2, rtol=1e-12)  # K x V = 16 x 16
    np.testing.assert_allclose(a["limits"], a["state.norm"][:, :3].max((0, 1)), rtol=0)
    ratio = a["state.variance"][:, 3:].max((0, 1)) / a["state.variance"][:, :3].max((0, 1))
    np.testing.assert_allclose(a["variance_ratio"], ratio, rtol=0)
    table = results.summary["exploding"]
    assert [row["ratio"] for row in table] == sorted(ratio.flat, reverse=True)[:20]
    assert all(row["ratio"] == ratio[row["layer"], row["head"]] for row in table)
    np.testing.assert_allclose(
        [results.records[f"document={i}"]["mean_nll_nats"] for i in range(DOCUMENTS)],
        a["loss.mean_nll"].mean(1),
        rtol=1e-12,
    )
    assert a["histogram.counts"].shape == (DOCUMENTS, 2, *shape[2:], 39)
    assert (a["histogram.counts"].sum(-1) == 256).all()
    assert a["conv.mean"].shape[0] == shape[2]
    with safe_open(out.with_suffix(".safetensors"), "np") as file:
        assert file.metadata()["schema"] == "stuffed.state_stats" and "state.X" in file.metadata()["names"]


@needs_binary
def test_losses_are_those_of_ppl_by_length(tokens, tmp_path):
    out, ppl = tmp_path / "a.jsonl", tmp_path / "p.jsonl"
    assert run(*command(tokens, out, "--stride", STRIDE)).returncode == 0
    done = run(STUFFED, "ppl-by-length", "--model", MODEL, "--tokens", tokens, "--bucket", STRIDE, "-o", ppl)
    assert done.returncode == 0, done.stderr
    sums = [json.loads(line)["nll_sum_nats"] for line in records(ppl)[:DOCUMENTS]]
    np.testing.assert_allclose(arrays_of(out)["loss.mean_nll"] * STRIDE, sums, rtol=1e-5)


@needs_binary
def test_a_selection_and_a_single_document_are_part_of_the_whole(tokens, tmp_path):
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    assert run(*command(tokens, whole, "--stride", STRIDE)).returncode == 0
    more = ["--stride", STRIDE, "--layers", "1", "--heads", "0..4:2", "--no-rank"]
    done = run(*command(tokens, part, *more, documents=None))
    assert done.returncode == 0, done.stderr
    a, b = arrays_of(whole), arrays_of(part)
    assert b["layers"].tolist() == [1] and b["heads"].tolist() == [0, 2, 4]
    assert "state.rank" not in b and "limits" not in b
    for name in ("state.median", "log_decay.cumulative", "v.variance"):
        np.testing.assert_array_equal(b[name], a[name][:1, :, 1:2, 0:5:2])
    np.testing.assert_array_equal(b["dt.layer_mean"], a["dt.layer_mean"][:1, :, 1:2])


@needs_binary
def test_documents_of_different_lengths_are_padded_with_nan(tmp_path):
    text, longer = tmp_path / "a.txt", tmp_path / "b.txt"
    text.write_text("short. " * 20)
    longer.write_text("longer. " * 40)
    out = tmp_path / "a.jsonl"
    done = run(
        *(STUFFED, "state-stats", "--model", MODEL, "--tokenizer", "bytes", "--text", text, longer, "-o", out),
        *("--documents", 2, "--stride", 64, "--train-len", 64),
    )
    assert done.returncode == 0, done.stderr
    a = arrays_of(out)
    assert np.isnan(a["state.norm"][0, :, 0, 0]).tolist() == [False, False, True, True]
    assert np.isfinite(a["state.norm"][1]).all() and np.isfinite(a["variance_ratio"]).all()


@needs_binary
def test_killed_at_random_it_ends_with_the_same_bytes(tokens, tmp_path):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    more = ["--stride", 10, "--histogram-at", "100", "--train-len", 100]
    for folder in folders:
        folder.mkdir()
    whole, out = (folder / "a.jsonl" for folder in folders)
    begin = time.monotonic()
    assert run(*command(tokens, whole, *more)).returncode == 0
    seconds = time.monotonic() - begin
    rng = random.Random(int(os.environ.get("STUFFED_TEST_SEED", "5")))
    for _ in range(4):
        arguments = [str(a) for a in command(tokens, out, *more)]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ONE_THREAD)
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(*command(tokens, out, *more)).returncode == 0
    assert records(out) == records(whole)
    assert out.with_suffix(".safetensors").read_bytes() == whole.with_suffix(".safetensors").read_bytes()
    assert sorted(p.name for p in folders[1].iterdir()) == ["a.jsonl", "a.safetensors"]


@needs_binary
@pytest.mark.parametrize("kept", [1, DOCUMENTS, DOCUMENTS + 1])
def test_finished_documents_are_not_fed_again(tokens, tmp_path, kept):
    out = tmp_path / "a.jsonl"
    assert run(*command(tokens, out, "--stride", STRIDE)).returncode == 0
    lines, sidecar = out.read_bytes().splitlines(keepends=True), out.with_suffix(".safetensors")
    whole = sidecar.read_bytes()
    marked = [line.replace(b'"document":', b'"document" :') for line in lines[1 : 1 + kept]]  # shows if rewritten
    out.write_bytes(lines[0] + b"".join(marked))
    refused = run(*command(tokens, out, "--stride", STRIDE))  # the parts are gone
    assert refused.returncode == 3 and "document=0.safetensors" in refused.stderr
    part = sidecar.with_suffix(".safetensors.partial")
    part.mkdir(exist_ok=True)
    axes = ("positions", "layers", "heads", "conv.mean", "conv.variance")
    arrays = {k: v for k, v in load_file(sidecar).items() if k not in axes}
    for i in range(DOCUMENTS):
        save_file({k: np.ascontiguousarray(v[i]) for k, v in arrays.items()}, part / f"document={i}.safetensors")
    done = run(*command(tokens, out, "--stride", STRIDE))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().splitlines(keepends=True)[1:] == marked + lines[1 + kept :]
    assert sidecar.read_bytes() == whole and not part.exists()


@needs_binary
def test_limits_reach_clamp_norm_in_every_command(tokens, tmp_path):
    out = tmp_path / "limits.jsonl"
    assert run(*command(tokens, out, "--stride", 25, "--train-len", 100)).returncode == 0
    limits = out.with_suffix(".safetensors")
    rule = f"clamp_norm:limits={limits},every=5,multiplier=0.5"
    clamped = tmp_path / "clamped.jsonl"
    done = run(*command(tokens, clamped, "--stride", 25, "--mitigation", rule))
    assert done.returncode == 0, done.stderr
    a, bound = arrays_of(clamped), load_file(limits)["limits"] * 0.5
    norm = a["state.norm"]
    assert (norm <= bound * (1 + 1e-6)).all() and np.isclose(norm, bound, rtol=1e-6).any()
    assert (load_file(limits)["state.norm"] > bound).any()
    config = stuffed_results.read(clamped).config
    assert list(config["mitigation_files"]) == [str(limits)]

    ppl = [STUFFED, "ppl-by-length", "--model", MODEL, "--tokens", tokens, "--bucket", 50]
    plain, changed = tmp_path / "plain.jsonl", tmp_path / "changed.jsonl"
    assert run(*ppl, "-o", plain).returncode == 0
    assert run(*ppl, "-o", changed, "--mitigation", rule).returncode == 0
    means = [stuffed_results.read(path).summary["mean_nll_nats"] for path in (plain, changed)]
    assert means[0] != means[1]
    passkey = ["--lengths", "256", "--depths", 1, "--trials", 1, "--tokenizer", "bytes"]
    done = run(STUFFED, "passkey", "--model", MODEL, *passkey, "-o", tmp_path / "k.jsonl", "--mitigation", rule)
    assert done.returncode == 0, done.stderr
    generate = ["--prompt", "ab", "--tokenizer", "bytes", "--max-new-tokens", 2]
    done = run(STUFFED, "generate", "--model", MODEL, *generate, "--mitigation", rule)
    assert done.returncode == 0, done.stderr

    # Other limits under the same name are another run.
    arrays = load_file(limits)
    save_file({"limits": arrays["limits"] * 2}, limits)
    refused = run(*ppl, "-o", changed, "--mitigation", rule)
    assert refused.returncode == 2 and "mitigation_files" in refused.stderr


@needs_binary
def test_wrong_limits_are_exit_code_3(tokens, tmp_path):
    def refused(path, *parts):
        rule = f"clamp_norm:limits={path}"
        done = run(*command(tokens, tmp_path / "x.jsonl", "--stride", 50, "--mitigation", rule))
        assert done.returncode == 3, done.stderr
        assert all(part in done.stderr for part in (str(path), *parts)), done.stderr

    refused(tmp_path / "missing.safetensors")
    refused(MODEL / "model.safetensors", "no tensor 'limits'", "--train-len")
    refused(SAMPLE, "is a journal")
    other = tmp_path / "other.safetensors"
    save_file({"limits": np.ones((3, 128))}, other)
    refused(other, "[3, 128]", "[3, 8]")
    save_file({"limits": -np.ones((3, 8))}, other)
    refused(other, ">= 0")
    text = tmp_path / "text.safetensors"
    text.write_text("no tensors")
    refused(text)


@needs_binary
@pytest.mark.parametrize(
    "more",
    [
        ["--stride", "0"],
        ["--stride", "301"],
        ["--stride", "50", "--train-len", "49"],
        ["--stride", "50", "--layers", "3"],
        ["--stride", "50", "--heads", "-1"],
        ["--stride", "50", "--histogram-at", "75"],
        ["--stride", "50", "--histogram-at", "350", "--length", "300"],
        ["--stride", "50", "--no-such-flag"],
    ],
)
def test_wrong_usage_is_exit_code_2(tokens, tmp_path, more):
    done = run(*command(tokens, tmp_path / "x.jsonl", *more))
    assert done.returncode == 2, done.stderr


@needs_binary
def test_places_that_cannot_be_written_and_names_that_clash(tokens, tmp_path):
    assert run(*command(tokens, "/dev/full", "--stride", 50)).returncode == 7
    assert run(*command(tokens, tmp_path / "a.jsonl", "--stride", 50, "--arrays", "/proc/a.st")).returncode == 7
    clash = run(*command(tokens, tmp_path / "a.safetensors", "--stride", 50))
    assert clash.returncode == 2 and "--arrays" in clash.stderr


@needs_binary
def test_every_family_runs(tmp_path):
    for family in GOLDENS:
        out = tmp_path / f"{family}.jsonl"
        tokens = GOLDEN / family / "golden.safetensors"
        done = run(*command(tokens, out, "--stride", 32, "--train-len", 64, documents=1, model=GOLDEN / family))
        assert done.returncode == 0, done.stderr
        a = arrays_of(out)
        assert a["positions"].tolist() == [32, 64, 96, 128]
        assert np.isfinite(a["state.rank"]).all() and (a["log_decay.cumulative"] <= 0).all()


@needs_binary
def test_the_mean_decay_is_given_by_head_and_layer(tokens, tmp_path):
    out = tmp_path / "a.jsonl"
    done = run(*command(tokens, out, "--stride", STRIDE))
    assert done.returncode == 0 and "mean decay alpha" in done.stdout, done.stderr
    results, a = stuffed_results.read(out), arrays_of(out)
    np.testing.assert_allclose(a["alpha.sequence_mean"], a["alpha.mean"].mean(1), rtol=1e-14)
    assert (a["alpha.mean"] > np.exp(a["log_decay.mean"])).all()  # Jensen
    for i in range(DOCUMENTS):
        mean = results.records[f"document={i}"]["alpha_mean_by_layer"]
        np.testing.assert_allclose(mean, a["alpha.sequence_mean"][i].mean(1), rtol=1e-14)
    over_documents = a["alpha.sequence_mean"].mean((0, 2))
    np.testing.assert_allclose(results.summary["alpha_mean_by_layer"], over_documents, rtol=1e-13)
    other = tmp_path / "other.jsonl"
    assert run(*command(tokens, other, "--stride", STRIDE, "--heads", "0,1")).returncode == 0
    for more in ([], ["--with", other]):
        done = plot(out, tmp_path / "alpha.png", "--kind", "alpha", *more)
        assert done.returncode == 0, done.stderr
    assert plot(out, tmp_path / "decay.png", "--kind", "decay").returncode == 0
    refused = plot(SAMPLE, tmp_path / "x.png", "--kind", "alpha")
    assert refused.returncode == 3 and "alpha.sequence_mean" in refused.stderr


@needs_binary
def test_a_dump_holds_the_states_that_the_statistics_are_of(tokens, tmp_path):
    out = tmp_path / "a.jsonl"
    more = ["--stride", STRIDE, "--dump", "50,7,300:0,2:0..4:2"]
    done = run(*command(tokens, out, *more, documents=1))
    assert done.returncode == 0, done.stderr
    dumped = tmp_path / "a.dump.safetensors"
    assert "dump: " in done.stderr and "3 x 2 x 3" in done.stderr and str(dumped) in done.stderr
    states, a = load_file(dumped), arrays_of(out)
    assert states["positions"].tolist() == [7, 50, 300] and states["positions"].dtype == np.int64
    assert states["layers"].tolist() == [0, 2] and states["heads"].tolist() == [0, 2, 4]
    for layer in (0, 2):
        state = states[f"state.layer={layer}"]
        assert state.shape == (3, 3, 16, 16) and state.dtype == np.float32
        for row, sample in ((1, 0), (2, 5)):
            norm = np.sqrt((state[row].astype(float) ** 2).sum((1, 2)))
            np.testing.assert_allclose(norm, a["state.norm"][0, sample, layer, 0:5:2], rtol=1e-12)
        assert states[f"k.layer={layer}"].shape == (3, 3, 16) and states[f"dt.layer={layer}"].shape == (3, 3)
        assert states[f"log_decay.layer={layer}"].shape == (3, 3, 1)
    assert "state.layer=1" not in states
    before = dumped.read_bytes()
    assert run(*command(tokens, out, *more, documents=1)).returncode == 0  # finished: nothing is fed
    assert dumped.read_bytes() == before
    dumped.unlink()
    lost = run(*command(tokens, out, *more, documents=1))
    assert lost.returncode == 3 and "a.dump.safetensors" in lost.stderr


@needs_binary
@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["--dump", "50:3"], "--dump"),
        (["--dump", "50:0:8"], "--dump"),
        (["--dump", "0"], "--dump"),
        (["--dump", "50:0:0:0"], "POSITIONS"),
        (["--dump", "301"], "301"),
        (["--dump", "50", "--documents", "2"], "--documents 1"),
    ],
)
def test_a_dump_of_what_is_not_there_is_exit_code_2(tokens, tmp_path, more, part):
    done = run(*command(tokens, tmp_path / "x.jsonl", "--stride", 50, *more, documents=None))
    assert done.returncode == 2 and part in done.stderr, done.stderr


@needs_binary
def test_a_huge_dump_is_refused_before_anything_is_written(tmp_path):
    out = tmp_path / "x.jsonl"
    data = ["--prompt", "newlines", "--length", "1M", "--tokenizer", "bytes"]
    dump = ["--dump", "1..1000000:1"]
    done = run(STUFFED, "state-stats", "--model", MODEL, *data, *dump, "-o", out)
    assert done.returncode == 2 and "--force" in done.stderr and " GB" in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())


# ---- figures ----

KINDS = ["states", "decay", "inputs", "histogram", "map", "taps"]


def plot(results, figure, *more):
    return run(sys.executable, ROOT / "scripts" / "plot" / "plot_state_stats.py", results, "-o", figure, *more)


@pytest.mark.parametrize("kind", KINDS)
def test_every_figure_is_drawn(tmp_path, kind):
    done = plot(SAMPLE, tmp_path / f"{kind}.png", "--kind", kind)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / f"{kind}.png").stat().st_size > 5000


def test_what_was_not_recorded_is_refused_by_name(tmp_path):
    figure = tmp_path / "x.png"
    for more, part in (
        (["--layer", "9"], "layer 9"),
        (["--heads", "0,99"], "head 99"),
        (["--document", "1"], "--document 1"),
        (["--kind", "map", "--quantity", "nothing"], "nothing"),
    ):
        done = plot(SAMPLE, figure, *more)
        assert done.returncode == 3 and part in done.stderr, done.stderr
    lost = tmp_path / "lost.jsonl"
    lost.write_bytes(SAMPLE.read_bytes())
    done = plot(lost, figure)
    assert done.returncode == 3 and "state_stats.v1.safetensors" in done.stderr, done.stderr
