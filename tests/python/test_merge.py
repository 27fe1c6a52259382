"""`stuffed merge`, from outside: what parts make is what one run makes; what is missing or twice is named."""

import json

import numpy
import pytest
from cli_support import GOLDEN, ROOT, needs_binary, refused, stuffed
from safetensors.numpy import load_file, save_file

pytestmark = needs_binary
MODELS = ROOT / "tests" / "models"
TEXTS = sorted((MODELS / "text").glob("*.txt"))[:3]
RUNS = {
    "ppl-by-length": ["--length", 64, "--bucket", 16, "--train-len", 64],
    "state-stats": ["--length", 128, "--stride", 32, "--train-len", 64, "--histogram-at", 64, "--documents", 3],
    "retention": ["--length", 64, "--points", 4, "--mitigation", "clip_insert:max=1"],
}


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, lines):
    path.write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))


def is_shared(name):
    return name in ("positions", "layers", "heads", "histogram.positions", "variance_ratio", "limits") or (
        name.startswith("conv.") or name.endswith("/median")
    )


def split(whole, folder, numbers, name):
    """A part of a result: the documents of these numbers, and their rows of the arrays."""
    header, *rest = lines_of(whole)
    kept = [line for line in rest if line.get("key") in {f"document={n}" for n in numbers}]
    path = folder / f"{name}.jsonl"
    if (arrays := whole.with_suffix(".safetensors")).exists():
        rows = load_file(arrays)
        save_file(
            {k: v if is_shared(k) else v[numpy.array(numbers)] for k, v in rows.items()}, folder / f"{name}.safetensors"
        )
        for key, place in (("arrays", "config"), ("per_token", "provenance")):
            if header[place].get(key) not in (None, True, False):
                header[place][key] = f"{name}.safetensors"
    write(path, [header, *kept, {"end": True, "records": len(kept)}])
    return path


@pytest.fixture(scope="module", params=RUNS)
def whole(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "whole.jsonl"
    texts = [word for text in TEXTS for word in ("--text", text)]
    more = ["--per-token", out.with_suffix(".safetensors")] if request.param == "ppl-by-length" else []
    done = stuffed(request.param, "--model", MODELS / "mamba2-short", *texts, *RUNS[request.param], *more, "-o", out)
    assert done.returncode == 0, done.stderr
    return out


def test_parts_make_what_one_run_makes(whole, tmp_path):
    parts = [split(whole, tmp_path, [1], "b"), split(whole, tmp_path, [0, 2], "a")]
    out = tmp_path / "merged.jsonl"
    done = stuffed("merge", *parts, "-o", out)
    assert done.returncode == 0, done.stderr
    assert lines_of(out)[1:] == lines_of(whole)[1:]
    theirs, ours = load_file(whole.with_suffix(".safetensors")), load_file(tmp_path / "merged.safetensors")
    assert ours.keys() == theirs.keys()
    for name, array in theirs.items():
        numpy.testing.assert_array_equal(ours[name], array, err_msg=name)
    config, of_whole = lines_of(out)[0]["config"], lines_of(whole)[0]["config"]
    for one in (config, of_whole):
        one.pop("arrays", None)
    assert config == of_whole
    assert stuffed("compare", whole, out, "--atol", 0).returncode == 0
    assert stuffed("merge", *parts, "-o", out).returncode == 0  # again: it is done


def test_gaps_overlaps_and_differing_configs_are_named(whole, tmp_path):
    a, b, c = (split(whole, tmp_path, [n], f"part{n}") for n in range(3))
    out = tmp_path / "merged.jsonl"
    both = split(whole, tmp_path, [0, 1], "both")
    refused(stuffed("merge", a, both, c, "-o", out), 3, "document=0", a, both)
    refused(stuffed("merge", a, c, "-o", out), 3, "document=1")
    other = lines_of(c)
    other[0]["config"]["segment_tokens"] = 7
    write(tmp_path / "other.jsonl", other)
    refused(stuffed("merge", a, b, tmp_path / "other.jsonl", "-o", out), 3, "config.segment_tokens", "other.jsonl")
    unfinished = lines_of(c)[:-1]
    write(tmp_path / "unfinished.jsonl", unfinished)
    refused(stuffed("merge", a, b, tmp_path / "unfinished.jsonl", "-o", out), 3, "not finished")
    refused(stuffed("merge", a, b, c, "-o", a), 2, "is read by this run")
    assert not out.exists() and not (tmp_path / "merged.safetensors").exists()
    device = lines_of(c)
    device[0]["config"]["device"] = "cuda"
    device[0]["provenance"] = {}
    if "per_token" in lines_of(c)[0]["provenance"]:
        device[0]["provenance"]["per_token"] = "part2.safetensors"
    write(tmp_path / "device.jsonl", device)
    assert stuffed("merge", a, b, tmp_path / "device.jsonl", "-o", out).returncode == 0


def test_processes_that_share_a_run_make_what_one_process_makes(whole, tmp_path):
    """--part i/n of the same command line."""
    command, run = next((name, run) for name, run in RUNS.items() if name.replace("-", "_") in whole.read_text())
    texts = [word for text in TEXTS for word in ("--text", text)]
    parts = []
    for i in range(2):
        out = tmp_path / f"part{i}.jsonl"
        more = ["--per-token", out.with_suffix(".safetensors")] if command == "ppl-by-length" else []
        model = ["--model", MODELS / "mamba2-short"]
        done = stuffed(command, *model, *texts, *run, *more, "--part", f"{i}/2", "-o", out)
        assert done.returncode == 0, done.stderr
        parts.append(out)
    assert [line["document"] for line in lines_of(parts[0])[1:3]] == [0, 2]
    assert lines_of(parts[1])[0]["config"]["part"] == "1/2" and lines_of(parts[1])[1]["document"] == 1
    out = tmp_path / "merged.jsonl"
    refused(stuffed("merge", parts[0], "-o", out), 3, "document=1")
    refused(stuffed("merge", *parts, parts[0], "-o", out), 3, "document=0", "is in both")
    assert stuffed("merge", *reversed(parts), "-o", out).returncode == 0
    assert lines_of(out)[1:] == lines_of(whole)[1:]
    config, of_whole = lines_of(out)[0]["config"], lines_of(whole)[0]["config"]
    for one in (config, of_whole):
        one.pop("arrays", None)
    assert config == of_whole
    theirs, ours = load_file(whole.with_suffix(".safetensors")), load_file(tmp_path / "merged.safetensors")
    for name, array in theirs.items():
        numpy.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_a_part_that_is_missing_is_named_where_no_document_says_so(tmp_path):
    run = ["ppl-by-length", "--model", MODELS / "mamba2-short", "--length", 32, "--bucket", 16]
    run += [word for text in TEXTS for word in ("--text", text)]
    for part in ("0/3", "1/3", "0/2", "1/2"):
        auto = ["--batch-size", "auto" if part.endswith("2") else 2]
        done = stuffed(*run, *auto, "--part", part, "-o", tmp_path / f"{part.replace('/', '-')}.jsonl")
        assert done.returncode == 0, done.stderr
    # A batch that is found by each part is the same in all: here as many as the larger part has.
    halves = [tmp_path / f"{name}.jsonl" for name in ("0-2", "1-2")]
    assert [lines_of(half)[0]["config"]["batch_size"] for half in halves] == [2, 2]
    assert stuffed("merge", *halves, "-o", tmp_path / "halves.jsonl").returncode == 0
    first, second, half = (tmp_path / f"{name}.jsonl" for name in ("0-3", "1-3", "1-2"))
    refused(stuffed("merge", first, second, "-o", tmp_path / "a.jsonl"), 3, "part 2/3 is missing", "--part 2/3")
    refused(stuffed("merge", first, half, "-o", tmp_path / "a.jsonl"), 3, "0/3", "1/2")
    refused(stuffed(*run, "--part", "3/4", "-o", tmp_path / "none.jsonl"), 2, "--part 3/4", "only 3")
    refused(stuffed(*run, "--part", "2/2", "-o", tmp_path / "none.jsonl"), 2, "--part 2/2")
    refused(stuffed(*run, "--batch-size", 2, "--part", "1/3", "-o", first), 2, "config.part")


def test_trials_of_passkey(tmp_path):
    sample = GOLDEN / "results" / "passkey.v1.jsonl"
    run = ["--model", MODELS / "mamba2-passkey", "--lengths", "512,1K", "--depths", 2, "--trials", 2]
    whole = tmp_path / "whole.jsonl"
    assert stuffed("passkey", *run, "-o", whole).returncode == 0
    header, *rest = lines_of(whole)
    trials = [line for line in rest if line.get("key", "").startswith("len=")]
    for name, part in (("a", trials[::2]), ("b", trials[1::2])):
        write(tmp_path / f"{name}.jsonl", [header, *part, {"end": True, "records": len(part)}])
    out = tmp_path / "merged.jsonl"
    done = stuffed("merge", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "-o", out)
    assert done.returncode == 0, done.stderr
    ours, theirs = ({line["key"]: line for line in lines_of(path) if "key" in line} for path in (out, whole))
    assert ours == theirs
    shared = [tmp_path / f"part{i}.jsonl" for i in range(2)]
    for i, path in enumerate(shared):
        assert stuffed("passkey", *run, "--part", f"{i}/2", "-o", path).returncode == 0
        assert {line["trial"] for line in lines_of(path) if line.get("key", "").startswith("len=")} == {i}
    refused(stuffed("merge", shared[0], "-o", tmp_path / "d.jsonl"), 3, "part 1/2 is missing")
    assert stuffed("merge", *shared, "-o", tmp_path / "d.jsonl").returncode == 0
    assert {line["key"]: line for line in lines_of(tmp_path / "d.jsonl") if "key" in line} == theirs
    assert lines_of(tmp_path / "d.jsonl")[0]["config"] == header["config"]
    refused(stuffed("passkey", *run, "--part", "2/3", "-o", tmp_path / "e.jsonl"), 2, "--part 2/3", "there are 2")
    refused(stuffed("merge", tmp_path / "a.jsonl", "-o", tmp_path / "c.jsonl"), 3, trials[1]["key"])
    refused(stuffed("merge", tmp_path / "a.jsonl", whole, "-o", tmp_path / "c.jsonl"), 3, "is in both")
    refused(stuffed("merge", sample, whole, "-o", tmp_path / "c.jsonl"), 3, "different runs")
    refused(stuffed("merge", GOLDEN / "results" / "bench.v1.jsonl", "-o", tmp_path / "c.jsonl"), 3, "stuffed.bench")


SWEEP = f"""
[defaults]
text = "{TEXTS[0]}"
model = "{MODELS / "mamba2-short"}"
[[runs]]
command = "ppl-by-length"
bucket = 16
[runs.grid]
length = [32, 64]
[[runs]]
command = "passkey"
lengths = [512]
depths = 1
trials = 2
"""


def test_cells_of_a_sweep_become_one_file_that_can_be_compared(tmp_path):
    (tmp_path / "sweep.toml").write_text(SWEEP)
    for shard in (0, 1):
        done = stuffed("sweep", tmp_path / "sweep.toml", "-o", tmp_path / f"part{shard}", "--shard", f"{shard}/2")
        assert done.returncode == 0, done.stderr
    folders = [tmp_path / "part0", tmp_path / "part1"]
    out = tmp_path / "all.jsonl"
    refused(stuffed("merge", folders[0], "-o", out), 3, "1 of 3 cells", "ppl-by-length-64")
    done = stuffed("merge", *folders, "-o", out)
    assert done.returncode == 0, done.stderr
    header, *rest = lines_of(out)
    assert header["schema"] == "stuffed.sweep"
    assert [cell["name"] for cell in header["config"]["cells"]] == ["ppl-by-length-32", "ppl-by-length-64", "passkey"]
    one = lines_of(folders[0] / "ppl-by-length-32.jsonl")[1]
    assert {**one, "key": "ppl-by-length-32/document=0", "cell": "ppl-by-length-32"} == rest[0]
    refused(stuffed("merge", *folders, folders[0], "-o", tmp_path / "b.jsonl"), 3, "is in both", "ppl-by-length-32")
    compared = stuffed("compare", out, out, "--atol", 0, "--format", "json")
    assert compared.returncode == 0, compared.stderr
    found = json.loads(compared.stdout)
    assert {row["cell"] for row in found["rows"]} == {"ppl-by-length-32", "ppl-by-length-64", "passkey"}
    assert {"nll_mean", "passkey_accuracy_drop"} <= found["metrics"].keys()

    worse = [dict(line) for line in (header, *rest)]
    for line in worse:
        if line.get("key") == "ppl-by-length-64/document=0":
            line["nll_sum_nats"] = [value + 1.6 for value in line["nll_sum_nats"]]
    write(tmp_path / "worse.jsonl", worse)
    done = stuffed("compare", out, tmp_path / "worse.jsonl", "--fail-above", "nll_mean=0.099")
    refused(done, 1, "nll_mean is 0.1")
    write(tmp_path / "fewer.jsonl", [{**header, "config": {"cells": header["config"]["cells"][:2]}}, *rest])
    refused(stuffed("compare", out, tmp_path / "fewer.jsonl"), 3, "passkey")
