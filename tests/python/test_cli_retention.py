"""retention from outside: killed and resumed, refused, drawn."""

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
from safetensors.numpy import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
GOLDEN = ROOT / "tests" / "golden"
MODEL = GOLDEN / "mamba2-hf"
LENGTH, DOCUMENTS = 200, 3
LAYERS, HEADS = 3, 8  # of MODEL

pytestmark = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.safetensors"
    save_file({"tokens": np.random.default_rng(0).integers(0, 256, (DOCUMENTS, LENGTH + 1))}, path)
    return path


def command(tokens, out, *more, model=MODEL):
    points = [] if "--grid" in more else ["--points", "8"]
    return [STUFFED, "retention", "--model", model, "--tokens", tokens, *points, "-o", out, *more]


ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}  # other numbers of threads round sums otherwise


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, env=ONE_THREAD, **options)


def records(path):
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.startswith(b'{"key"')]


def test_one_record_per_document_and_a_summary_that_agrees_with_them_and_the_arrays(tokens, tmp_path):
    out = tmp_path / "a.jsonl"
    done = run(*command(tokens, out, "--at", "64,200", "--train-len", "100"))
    assert done.returncode == 0, done.stderr
    assert "half-lives in tokens" in done.stdout and "after 200 tokens" in done.stdout
    found = [json.loads(line) for line in records(out)]
    assert [record["key"] for record in found] == [f"document={i}" for i in range(DOCUMENTS)] + ["summary"]
    arrays = load_file(tmp_path / "a.safetensors")
    for i, read in enumerate((64, 200)):
        points = [record["points"][i] for record in found]
        assert {point["read_tokens"] for point in points} == {read}
        assert points[0]["suffix_tokens"][0] == 1 and points[0]["suffix_tokens"][-1] == read
        effrem = np.array([point["effrem"] for point in points[:-1]])
        assert ((effrem >= 0) & (effrem <= 1)).all() and effrem[:, 0].min() > 0 and (effrem[:, -1] == 0).all()
        np.testing.assert_allclose(points[-1]["effrem"], effrem.mean(0), rtol=1e-12)
        np.testing.assert_allclose(
            points[-1]["effrem_standard_error"], effrem.std(0, ddof=1) / DOCUMENTS**0.5, rtol=1e-9
        )
        weights = arrays[f"surviving_weight.read={read}"]
        assert weights.shape == (DOCUMENTS, LAYERS, HEADS, 8) and weights.dtype == np.float32
        np.testing.assert_allclose(points[-1]["surviving_weight_by_layer"], weights.mean((0, 2)), rtol=1e-5)
        np.testing.assert_array_equal(weights[..., 0], 1)  # nothing has yet decayed of the last token
        assert (np.diff(weights, axis=-1) <= 0).all()
    half_life = arrays["half_life_tokens"]
    for layer, heads in zip(found[0]["half_life"]["by_layer"], half_life[0], strict=True):
        assert layer["censored_heads"] == np.isnan(heads).sum()
        assert layer["least_tokens"] == (None if np.isnan(heads).all() else np.nanmin(heads))
    assert not list(tmp_path.glob("*.partial"))


def test_a_document_measured_alone_has_the_same_record(tokens, tmp_path):
    together, alone = tmp_path / "together.jsonl", tmp_path / "alone.jsonl"
    assert run(*command(tokens, together)).returncode == 0
    first = tmp_path / "first.safetensors"
    save_file({"tokens": load_file(tokens)["tokens"][:1]}, first)
    assert run(*command(first, alone)).returncode == 0
    a, b = json.loads(records(together)[0]), json.loads(records(alone)[0])
    assert a.pop("name") != b.pop("name")
    assert json.dumps(a) == json.dumps(b)


@pytest.mark.parametrize("model", GOLDENS)
def test_every_family_is_measured(tokens, tmp_path, model):
    out = tmp_path / "a.jsonl"
    done = run(*command(tokens, out, "--documents", "1", "--grid", "1,50,200", model=GOLDEN / model))
    assert done.returncode == 0, done.stderr
    summary = json.loads(records(out)[-1])
    assert summary["finite"] and summary["points"][0]["suffix_tokens"] == [1, 50, 200]
    assert summary["transition"] == ("diagonal part" if model == "rwkv7-pth" else "diagonal")
    assert ("erase term is left out" in done.stdout) == (model == "rwkv7-pth")


def test_killed_at_random_it_ends_with_the_same_bytes(tokens, tmp_path):
    whole = tmp_path / "whole.jsonl"
    begin = time.monotonic()
    assert run(*command(tokens, whole)).returncode == 0
    seconds = time.monotonic() - begin
    rng = random.Random(int(os.environ.get("STUFFED_TEST_SEED", "3")))
    (tmp_path / "killed").mkdir()
    out = tmp_path / "killed" / "whole.jsonl"  # the arrays' name is part of the configuration
    for _ in range(4):
        process = subprocess.Popen(
            command(tokens, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ONE_THREAD
        )
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(*command(tokens, out)).returncode == 0
    assert records(out) == records(whole)
    assert out.with_suffix(".safetensors").read_bytes() == whole.with_suffix(".safetensors").read_bytes()


@pytest.mark.parametrize("kept", [0, 1, DOCUMENTS, DOCUMENTS + 1])
def test_finished_records_are_not_computed_again(tokens, tmp_path, kept):
    out, sidecar = tmp_path / "run.jsonl", tmp_path / "run.safetensors"
    assert run(*command(tokens, out)).returncode == 0
    lines, arrays = out.read_bytes().splitlines(keepends=True), load_file(sidecar)
    for i in range(min(kept, DOCUMENTS)):  # what a run killed here has left
        row = {name: array[i] for name, array in arrays.items() if not name.endswith("/median")}
        save_file(row, tmp_path / f"run.safetensors.document-{i}.partial")
    sidecar.unlink()
    marked = [line.replace(b'"document', b' "document', 1) for line in lines[1 : 1 + kept]]  # shows if it is rewritten
    out.write_bytes(lines[0] + b"".join(marked) + lines[1 + kept][:20])
    done = run(*command(tokens, out))
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().splitlines(keepends=True)[1:] == marked + lines[1 + kept :]
    again = load_file(sidecar)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)


def test_a_lost_partial_file_is_exit_code_3(tokens, tmp_path):
    out = tmp_path / "run.jsonl"
    assert run(*command(tokens, out)).returncode == 0
    out.write_bytes(b"".join(out.read_bytes().splitlines(keepends=True)[:2]))
    done = run(*command(tokens, out))
    assert done.returncode == 3 and "document=0.safetensors" in done.stderr and "--overwrite" in done.stderr
    assert run(*command(tokens, out, "--overwrite")).returncode == 0


@pytest.mark.parametrize("place", ["/dev/full", "/proc/run.jsonl"])
def test_a_place_that_cannot_be_written_is_exit_code_7(tokens, place):
    assert run(*command(tokens, place)).returncode == 7


def test_standard_output_takes_the_records_and_leaves_no_file(tokens, tmp_path):
    done = run(*command(tokens, "-"), cwd=tmp_path)
    assert done.returncode == 0 and "half-lives" in done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["config"]["arrays"] is None and len(lines) == DOCUMENTS + 3
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.safetensors"]


@pytest.mark.parametrize(
    "more",
    [
        ["--at", "0"],
        ["--grid", "5,201"],
        ["--at", "1"],
        ["--half-life-starts", "0"],
        ["--no-such-flag"],
        ["--prompt", "newlines"],
        ["-o", "twice.jsonl"],
    ],
)
def test_wrong_usage_is_exit_code_2(tokens, tmp_path, more):
    done = run(*command(tokens, tmp_path / "x.jsonl"), *more)
    assert done.returncode == 2, done.stderr


def test_results_named_as_the_arrays_are_exit_code_2(tokens, tmp_path):
    done = run(*command(tokens, tmp_path / "x.safetensors"))
    assert done.returncode == 2 and "--arrays" in done.stderr


def test_bad_inputs_are_exit_code_3(tokens, tmp_path):
    out = tmp_path / "x.jsonl"
    short = run(*command(tokens, out, "--at", "201"))
    assert short.returncode == 3 and "200 targets" in short.stderr
    texts = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, size in zip(texts, (60, 50), strict=True):
        path.write_bytes(b"a" * size)
    common = [STUFFED, "retention", "--model", MODEL, "--tokenizer", "bytes", "--text", *texts]
    uneven = run(*common, "-o", tmp_path / "y.jsonl")
    assert uneven.returncode == 3 and "--length or --at" in uneven.stderr, uneven.stderr
    even = run(*common, "-o", tmp_path / "z.jsonl", "--length", "40")
    assert even.returncode == 0, even.stderr
    texts[0].write_bytes(b"ab\xffcd" * 20)
    assert run(*common, "-o", tmp_path / "w.jsonl").returncode == 3


def shape_of(value, path=""):
    """Every path to a value, with its type; of lists that of their first."""
    if isinstance(value, dict):
        return {line for key, inner in value.items() for line in shape_of(inner, f"{path}.{key}")}
    if isinstance(value, list) and value:
        return shape_of(value[0], path + "[]")
    return {(path, "number" if isinstance(value, float | int) else type(value).__name__)}


def test_the_kept_sample_of_version_1_has_the_fields_that_are_written_now(tokens, tmp_path):
    sample = [json.loads(line) for line in (GOLDEN / "results" / "retention.v1.jsonl").read_text().splitlines()]
    assert run(*command(tokens, tmp_path / "a.jsonl", "--at", "24,48", "--train-len", "32")).returncode == 0
    now = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert sample[0]["schema"] == now[0]["schema"] and sample[0]["version"] == now[0]["version"] == 1
    for index in (1, -2, -1):  # a document, the summary, the end
        assert {path for path, _ in shape_of(sample[index])} <= {path for path, _ in shape_of(now[index])}
    assert sample[0]["config"].keys() == now[0]["config"].keys()


def test_packed_documents_say_where_they_join_and_what_is_left_over(tmp_path):
    texts = []
    for i, size in enumerate((90, 60, 70)):
        texts.append(tmp_path / f"{i}.txt")
        texts[-1].write_bytes(b"a" * size)
    out = tmp_path / "a.jsonl"
    arguments = ["--tokenizer", "bytes", "--text", *texts, "--pack", "--length", "100", "--points", "3", "-o", out]
    done = run(STUFFED, "retention", "--model", MODEL, *arguments)
    assert done.returncode == 0, done.stderr
    found = {json.loads(line)["key"]: json.loads(line) for line in records(out)}
    assert [b["name"] for b in found["document=0"]["boundaries"]] == ["0.txt", "1.txt"]
    assert [b["position"] for b in found["document=0"]["boundaries"]] == [0, 90]
    ppl = tmp_path / "p.jsonl"
    done = run(STUFFED, "ppl-by-length", "--model", MODEL, *arguments[:-4], "-o", ppl)
    assert done.returncode == 0, done.stderr
    other = {json.loads(line)["key"]: json.loads(line) for line in records(ppl)}
    for key in ("document=0", "document=1"):
        assert found[key]["boundaries"] == other[key]["boundaries"]
    assert found["summary"]["leftover_tokens"] == other["summary"]["leftover_tokens"] > 0


def read_all(out):
    return {json.loads(line)["key"]: json.loads(line) for line in records(out)}, load_file(
        out.with_suffix(".safetensors")
    )


def test_a_mitigations_decays_are_recorded_beside_the_models_own(tokens, tmp_path):
    plain, scaled = tmp_path / "plain.jsonl", tmp_path / "scaled.jsonl"
    assert run(*command(tokens, plain)).returncode == 0
    done = run(*command(tokens, scaled, "--mitigation", "scale_gates:decay=0.98"))
    assert done.returncode == 0, done.stderr
    assert "mitigated half-lives" in done.stdout
    (_, before), (found, arrays) = read_all(plain), read_all(scaled)
    name = f"surviving_weight.read={LENGTH}"
    distance = np.array(found["summary"]["points"][0]["suffix_tokens"]) - 1.0
    # The first layer's decays depend on nothing that a mitigation changes.
    np.testing.assert_array_equal(arrays[name][:, 0], before[name][:, 0])
    np.testing.assert_allclose(arrays[f"mitigated/{name}"], arrays[name] * 0.98**distance, rtol=1e-4, atol=1e-30)
    np.testing.assert_allclose(arrays["mitigated/alpha.mean"], arrays["alpha.mean"] * 0.98, rtol=1e-6)
    np.testing.assert_allclose(arrays["mitigated/alpha.geometric"], arrays["alpha.geometric"] * 0.98, rtol=1e-6)
    assert (np.nan_to_num(arrays["mitigated/half_life_tokens"], nan=1e9) <= 36).all()  # 0.98^35 is below 1/2
    assert "mitigated/alpha.mean" not in before and (arrays["alpha.mean"] >= arrays["alpha.geometric"]).all()
    for key, record in found.items():
        assert (key == "summary") or record["mitigated_half_life"] != record["half_life"]
        np.testing.assert_allclose(
            record["mitigated_alpha"]["mean_by_layer"], np.array(record["alpha"]["mean_by_layer"]) * 0.98, rtol=1e-6
        )
    plot = [sys.executable, ROOT / "scripts" / "plot" / "plot_retention.py", scaled, "-o", tmp_path / "a.png"]
    for more in ([], ["--own"], ["--document", "1"]):
        assert run(*plot, *more).returncode == 0


def test_nothing_survives_behind_a_sliding_window(tokens, tmp_path):
    out = tmp_path / "a.jsonl"
    done = run(*command(tokens, out, "--grid", "1,64,65,200", "--mitigation", "sliding_window:tokens=64"))
    assert done.returncode == 0, done.stderr
    _, arrays = read_all(out)
    own, mitigated = arrays[f"surviving_weight.read={LENGTH}"], arrays[f"mitigated/surviving_weight.read={LENGTH}"]
    np.testing.assert_array_equal(mitigated[..., :2], own[..., :2])
    assert (mitigated[..., 2:] == 0).all() and (own[..., 2] > 0).any()
    assert (np.nan_to_num(arrays["mitigated/half_life_tokens"], nan=1e9) <= 64).all()


def test_arrays_that_documents_of_an_older_run_lack_are_left_out(tokens, tmp_path):
    out, sidecar = tmp_path / "run.jsonl", tmp_path / "run.safetensors"
    assert run(*command(tokens, out)).returncode == 0
    lines, arrays = out.read_bytes().splitlines(keepends=True), load_file(sidecar)
    sidecar.unlink()
    old = json.loads(lines[1])
    old.pop("alpha")
    row = {name: array[0] for name, array in arrays.items() if "/median" not in name and "alpha" not in name}
    save_file(row, tmp_path / "run.safetensors.document-0.partial")
    out.write_bytes(lines[0] + json.dumps(old, separators=(",", ":")).encode() + b"\n")
    done = run(*command(tokens, out))
    assert done.returncode == 0, done.stderr
    again = load_file(sidecar)
    assert not any("alpha" in name for name in again)
    np.testing.assert_array_equal(again["half_life_tokens"], arrays["half_life_tokens"])
    assert "alpha" not in json.loads(records(out)[-1]) and "alpha" in json.loads(records(out)[-2])


def test_numbers_that_are_not_finite_are_null_and_exit_code_6_on_request(tokens, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    weights = load_file(MODEL / "model.safetensors")
    name = next(name for name in weights if name.endswith("layers.1.mixer.out_proj.weight"))
    weights[name] = np.full_like(weights[name], np.nan)
    save_file(weights, model / "model.safetensors")
    (model / "config.json").write_bytes((MODEL / "config.json").read_bytes())
    out = tmp_path / "a.jsonl"
    assert run(*command(tokens, out, "--documents", "1", model=model)).returncode == 0
    for record in map(json.loads, records(out)):
        assert record["finite"] is False
        assert set(record["points"][0]["effrem"]) == {None}
        weights = record["points"][0]["surviving_weight_by_layer"]
        assert None not in weights[0] and None in weights[2]
        layers = record["half_life"]["by_layer"]
        assert layers[0]["least_tokens"] and layers[2]["least_tokens"] is None
    assert run(*command(tokens, out, "--documents", "1", "--fail-nonfinite", model=model)).returncode == 6


def test_the_plot_is_drawn(tokens, tmp_path):
    out = tmp_path / "run.jsonl"
    assert run(*command(tokens, out, "--at", "50,200", "--train-len", "64")).returncode == 0
    for name, more in (("a.png", []), ("b.pdf", ["--at", "50", "--document", "1"])):
        plot = [sys.executable, ROOT / "scripts" / "plot" / "plot_retention.py", out, "-o", tmp_path / name, *more]
        done = run(*plot)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / name).stat().st_size > 5000
    assert run(*plot, "--document", "9").returncode == 3
    out.with_suffix(".safetensors").unlink()
    assert run(*plot).returncode == 3
