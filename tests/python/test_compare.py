"""`stuffed compare`, from outside: pairs, differences, intervals, limits, formats and exit codes."""

import csv
import io
import json
import random
import re

import pytest
from cli_support import GOLDEN, ROOT, needs_binary, refused, stuffed

pytestmark = needs_binary
SAMPLES = GOLDEN / "results"
# A fit is drawn from results that can be compared themselves.
COMPARABLE = [path for path in sorted(SAMPLES.glob("*.jsonl")) if path.name != "fit.v1.jsonl"]
MODEL = ROOT / "tests" / "models" / "mamba2-short"
T_2 = 4.302652729696142  # 97.5 % quantile of Student's t with two degrees of freedom


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def edited(tmp_path, sample, edit, name="b.jsonl"):
    lines = lines_of(SAMPLES / f"{sample}.v1.jsonl")
    edit(lines)
    return write(tmp_path / name, lines)


def compare(a, b, *more):
    done = stuffed("compare", a, b, "--format", "json", *more)
    return done, json.loads(done.stdout) if done.stdout else None


def overall(found, metric):
    (row,) = [row for row in found["rows"] if row["metric"] == metric and row["axis"] == ""]
    return row


@pytest.mark.parametrize("sample", COMPARABLE, ids=lambda path: path.name)
def test_a_result_equals_itself(sample):
    done, found = compare(sample, sample, "--atol", 0)
    assert done.returncode == 0, done.stderr
    assert found["rows"] and found["metrics"] and found["settings"] == []
    assert all(value == 0 for value in found["metrics"].values() if value is not None)
    assert all(row["difference"] in (0, None) for row in found["rows"])


def test_a_fit_is_refused():
    fit = SAMPLES / "fit.v1.jsonl"
    refused(stuffed("compare", fit, fit), 3, fit, "stuffed.fit", "cannot be compared")


def shift_losses(lines, by):
    """Document d's losses rise by by[d] nats a token, in every bucket."""
    for line in lines:
        if line.get("key", "").startswith("document="):
            line["nll_sum_nats"] = [s + by[line["document"]] * 16 for s in line["nll_sum_nats"]]


def test_the_interval_is_that_of_the_paired_difference(tmp_path):
    a = SAMPLES / "ppl_by_length.v1.jsonl"
    b = edited(tmp_path, "ppl_by_length", lambda lines: shift_losses(lines, [0.01, 0.02, 0.03]))
    done, found = compare(a, b)
    assert done.returncode == 0, done.stderr
    row = overall(found, "nll_nats")
    half = T_2 * 0.01 / 3**0.5
    assert row["difference"] == pytest.approx(0.02) and found["pairs"] == row["pairs"] == 3
    assert (row["low"], row["high"]) == (pytest.approx(0.02 - half), pytest.approx(0.02 + half))
    assert found["metrics"]["nll_mean"] == pytest.approx(0.02)
    assert found["metrics"]["nll_bucket_max"] == pytest.approx(0.02)
    assert found["metrics"]["nll_mean_relative"] == pytest.approx(0.02 / row["a"])
    buckets = [row for row in found["rows"] if row["axis"] == "position_tokens"]
    assert [row["at"] for row in buckets[:3]] == ["0", "16", "32"] and len(buckets) == 32
    # A tenth of a percent is seen, though documents differ among themselves by far more.
    assert row["high"] - row["low"] < 0.06 < abs(buckets[0]["a"] - buckets[1]["a"])


def test_limits_decide_the_exit_code(tmp_path):
    a = SAMPLES / "ppl_by_length.v1.jsonl"
    b = edited(tmp_path, "ppl_by_length", lambda lines: shift_losses(lines, [0.02, 0.02, 0.02]))
    assert stuffed("compare", a, b, "--fail-above", "nll_mean=0.021").returncode == 0
    done = stuffed("compare", a, b, "--fail-above", "nll_mean=0.019", "--fail-above", "nll_bucket_max=1")
    refused(done, 1, "nll_mean is 0.02, above 0.019")
    assert "FAILED" in done.stdout
    refused(stuffed("compare", a, b, "--fail-above", "nll_mean_low=0.0199"), 1, "nll_mean_low")
    assert stuffed("compare", b, a, "--fail-above", "nll_mean=0").returncode == 0  # it fell
    assert stuffed("compare", a, b, "--atol", 0.021).returncode == 0
    assert stuffed("compare", a, b, "--rtol", 0.003).returncode == 0
    refused(stuffed("compare", a, b, "--atol", 0.019), 1, "rows differ by more than")
    refused(stuffed("compare", a, b, "--rtol", 0.002), 1, "rows differ by more than")


def test_losses_that_are_no_longer_finite_exceed_every_limit(tmp_path):
    def collapse(lines):
        lines[1]["nll_sum_nats"][5] = None
        lines[1].update(finite=False, not_finite_targets=16)

    a, b = SAMPLES / "ppl_by_length.v1.jsonl", edited(tmp_path, "ppl_by_length", collapse)
    refused(stuffed("compare", a, b, "--fail-above", "nll_mean=1e300"), 1, "nll_mean is inf")
    refused(stuffed("compare", a, b, "--fail-above", "nll_bucket_max=1e300"), 1, "nll_bucket_max is inf")
    refused(stuffed("compare", a, b, "--fail-above", "not_finite=15"), 1, "not_finite is 16")
    refused(stuffed("compare", a, b, "--atol", 1e300), 1, "rows differ")
    assert stuffed("compare", b, b, "--atol", 0, "--fail-above", "nll_mean=0").returncode == 0


def test_documents_are_paired_by_their_tokens(tmp_path):
    texts = [f'{{"text": "{c * 200}"}}\n' for c in "abc"]
    runs = []
    for name, order in [("a", (0, 1, 2)), ("b", (2, 0, 1)), ("c", (0, 1))]:
        (tmp_path / f"{name}.txt").write_text("".join(texts[i] for i in order))
        out = tmp_path / f"{name}.jsonl"
        done = stuffed(
            "ppl-by-length", "--model", MODEL, "--jsonl", tmp_path / f"{name}.txt", "--bucket", 32, "-o", out
        )
        assert done.returncode == 0, done.stderr
        runs.append(out)
    done, found = compare(runs[0], runs[1], "--atol", 0, "--rtol", 1e-5)
    assert done.returncode == 0, done.stderr
    assert found["pairs"] == 3 and any("data.sha256" in setting for setting in found["settings"])
    refused(stuffed("compare", runs[0], runs[2]), 3, "document=2", "no document has the tokens")
    refused(stuffed("compare", runs[2], runs[0]), 3, "document=2", "no document has the tokens")
    # Journals that are too old to say what their tokens are cannot be paired where their data differ.
    old = [line for line in lines_of(runs[1])]
    for line in old:
        line.pop("tokens_sha256", None)
    refused(stuffed("compare", runs[0], write(tmp_path / "old.jsonl", old)), 3, "too old")


def test_other_models_schemas_and_unfinished_results_are_refused(tmp_path):
    def other_model(lines):
        lines[0]["config"]["model"]["sha256"] = "0" * 64

    a = SAMPLES / "ppl_by_length.v1.jsonl"
    b = edited(tmp_path, "ppl_by_length", other_model)
    refused(stuffed("compare", a, b), 3, "different models", "--across-models")
    assert stuffed("compare", a, b, "--across-models").returncode == 0
    refused(stuffed("compare", a, SAMPLES / "passkey.v1.jsonl"), 3, "stuffed.passkey")
    torn = edited(tmp_path, "ppl_by_length", lambda lines: lines.pop(), "torn.jsonl")
    refused(stuffed("compare", a, torn), 3, torn, "not finished")
    refused(stuffed("compare", a, tmp_path / "absent"), 3, "absent")
    refused(stuffed("compare", a, ROOT / "LICENSE"), 3, "LICENSE")
    wide = edited(tmp_path, "ppl_by_length", lambda lines: lines[0]["config"].update(bucket_tokens=32), "wide.jsonl")
    refused(stuffed("compare", a, wide), 3, "buckets")
    odd = edited(tmp_path, "ppl_by_length", lambda lines: lines[1].update(nll_sum_nats="x"), "odd.jsonl")
    refused(stuffed("compare", a, odd), 3, "odd.jsonl", "document=0")


def wilson(successes, trials):
    z = 1.959963984540054
    p = successes / trials
    centre = (p + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * (p * (1 - p) / trials + z * z / (4 * trials**2)) ** 0.5
    return centre - half, centre + half


def test_accuracies_of_the_same_prompts(tmp_path):
    def some_right(lines):
        for line in lines:
            if line.get("key", "").startswith("len=") and line["depth_index"] < 2:
                line["correct"] = line["exact"] = True

    a = edited(tmp_path, "passkey", some_right, "a.jsonl")
    b = SAMPLES / "passkey.v1.jsonl"
    done, found = compare(a, b)
    assert done.returncode == 0, done.stderr
    row = overall(found, "accuracy")
    assert (row["a"], row["b"], row["pairs"]) == (pytest.approx(8 / 12), 0, 12)
    # Newcombe's method 10 with no correlation to speak of: one margin is empty.
    (low_a, high_a), (_, high_b) = wilson(8, 12), wilson(0, 12)
    assert row["low"] == pytest.approx(-8 / 12 - (high_a - 8 / 12))
    assert row["high"] == pytest.approx(-8 / 12 + (high_b**2 + (8 / 12 - low_a) ** 2) ** 0.5)
    assert found["metrics"]["passkey_accuracy_drop"] == pytest.approx(8 / 12)
    refused(stuffed("compare", a, b, "--fail-above", "passkey_accuracy_drop=0.5"), 1, "passkey_accuracy_drop")
    assert stuffed("compare", b, a, "--fail-above", "passkey_accuracy_drop=0").returncode == 0
    other = edited(tmp_path, "passkey", lambda lines: lines[3].update(passkey="11111"), "other.jsonl")
    refused(stuffed("compare", b, other), 3, "prompt")


def test_what_other_results_have_to_watch(tmp_path):
    def larger_states(lines):
        lines[1]["largest_norm"] *= 1.5

    b = edited(tmp_path, "state_stats", larger_states)
    _, found = compare(SAMPLES / "state_stats.v1.jsonl", b)
    assert found["metrics"]["state_norm_relative"] == pytest.approx(0.5)

    def forget(lines):
        for line in lines:
            if line.get("key") == "document=0":
                line["points"][0]["effrem"][0] += 0.25

    b = edited(tmp_path, "retention", forget)
    _, found = compare(SAMPLES / "retention.v1.jsonl", b)
    documents = sum(line.get("key", "").startswith("document=") for line in lines_of(b))
    assert found["metrics"]["effrem_max"] == pytest.approx(0.25 / documents)

    def slow(lines):
        lines[1]["seconds_median"] *= 1.2

    _, found = compare(SAMPLES / "bench.v1.jsonl", edited(tmp_path, "bench", slow))
    assert found["metrics"]["slowdown_max"] == pytest.approx(0.2)

    def disagree(lines):
        lines[1]["verdict"] = "DISAGREES"

    refused(
        stuffed(
            "compare",
            SAMPLES / "verify.v1.jsonl",
            edited(tmp_path, "verify", disagree),
            "--fail-above",
            "disagreements=0",
        ),
        1,
        "disagreements is 1",
    )


def test_formats_say_the_same(tmp_path):
    a = SAMPLES / "ppl_by_length.v1.jsonl"
    b = edited(tmp_path, "ppl_by_length", lambda lines: shift_losses(lines, [0.01, 0.02, 0.03]))
    _, found = compare(a, b)
    rows = list(csv.DictReader(io.StringIO(stuffed("compare", a, b, "--format", "csv").stdout)))
    assert len(rows) == len(found["rows"])
    for of_csv, of_json in zip(rows, found["rows"], strict=True):
        assert of_csv["metric"] == of_json["metric"] and of_csv["at"] == of_json["at"]
        assert (float(of_csv["difference"]) if of_csv["difference"] else None) == of_json["difference"]
    table = stuffed("compare", a, b).stdout
    assert "| metric | at | A | B | B - A |" in table and "+0.02" in table and "95 %" in table
    assert len(table) < 60_000 and table.count("\n") < 60  # fit for a comment


def test_every_metric_is_listed_and_mistakes_are_named(tmp_path):
    listed = stuffed("compare", "--list-metrics").stdout
    names = {line.split()[0] for line in listed.splitlines()[1:]}
    seen = set()
    for sample in COMPARABLE:
        seen |= set(compare(sample, sample)[1]["metrics"])
    # The samples are older than some fields, and have no text.
    assert {"nll_mean", "nll_bucket_max", "passkey_accuracy_drop"} <= seen <= names
    assert names - seen <= {"bits_per_byte", "nll_mean_low", "alpha_max"}
    raised = set()
    for source in (ROOT / "src" / "eval" / "compare").glob("*.cpp"):
        raised |= set(re.findall(r'raise_metric\([^,]+, "(\w+)"', source.read_text()))
    assert len(raised) > 10 and raised <= names, raised - names
    a = SAMPLES / "ppl_by_length.v1.jsonl"
    refused(stuffed("compare", a, a, "--fail-above", "nll_maen=1"), 2, "nll_maen", "nll_mean")
    refused(stuffed("compare", a, a, "--fail-above", "nll_mean"), 2, "NAME=VALUE")
    refused(stuffed("compare", a, a, "--fail-above", "nll_mean=x"), 2, "not a number")
    refused(stuffed("compare", a, a, "--fail-above", "passkey_accuracy_drop=0"), 2, "do not have it", "nll_mean")
    refused(stuffed("compare", a, a, "--atol", "-1"), 2, "--atol")
    refused(stuffed("compare", a), 2, "two results")


def test_results_of_a_hundred_thousand_prompts(tmp_path):
    draw = random.Random(1)
    lines = lines_of(SAMPLES / "passkey.v1.jsonl")
    trial = lines[1]
    config = {**lines[0]["config"], "depths": 1, "trials": 100_000, "lengths_tokens": [512]}
    records = []
    for i in range(100_000):
        right = draw.random() < 0.5
        records.append({**trial, "key": f"len=512/depth=0/trial={i}", "depth_index": 0, "trial": i, "correct": right})
    end = {"end": True, "records": len(records)}
    large = write(tmp_path / "large.jsonl", [{**lines[0], "config": config}, *records, end])
    done, found = compare(large, large)
    assert done.returncode == 0 and found["pairs"] == 100_000, done.stderr
