"""`stuffed fit` against a program of its own kind: least squares by numpy, bounds by expectation and maximisation, the
likelihood written down once more; on journals made from a truth that is known."""

import json
import math
import pathlib

import numpy as np
import pytest
import stuffed_results
from cli_support import GOLDEN, ROOT, needs_binary, refused, stuffed
from test_docs import lacking

pytestmark = needs_binary
RESULTS = GOLDEN / "results"
MODELS = ROOT / "tests" / "models"
ERFC = np.vectorize(math.erfc)


def state(elements: int) -> dict:
    """Of a model with nothing beside its recurrence."""
    return {"recurrence_elements": elements, "convolution_elements": 0, "convolution_width": 0, "shift_elements": 0}


def journal(path: pathlib.Path, sample: str, config: dict, facts: dict, records: list[dict]) -> pathlib.Path:
    header = json.loads((RESULTS / f"{sample}.v1.jsonl").read_text().splitlines()[0])
    header["config"].update(config)
    header["provenance"].update(facts)
    header["config"]["model"]["sha256"] = path.name.encode().hex().ljust(64, "0")
    lines = [header, *records, {"end": True, "records": len(records)}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def losses(path, elements, length, seed, collapses, buckets=32, **config):
    """A run of ppl-by-length over 8 training lengths; collapse sets in at the second."""
    width = length // 4
    means = [2.0 if i < 8 or not collapses else 4.5 for i in range(buckets)]
    summary = {"key": "summary", "bucket_tokens": width, "length_tokens": width * buckets, "mean_nll_nats": means}
    facts = {"state": state(elements), "training": {"length_tokens": length, "seed": seed}}
    return journal(path, "ppl_by_length", {"train_len_tokens": length, **config}, facts, [summary])


def threshold(folder, elements, tokens, seed, bound="no"):
    """The journals of a size and seed whose threshold is `tokens`, or known only to be at most or at least that."""
    runs = []
    if bound != "at most":
        length = tokens if bound == "at least" else tokens // 2
        runs.append(losses(folder / f"{elements}-{seed}-short.jsonl", elements, length, seed, True))
    if bound != "at least":
        runs.append(losses(folder / f"{elements}-{seed}-long.jsonl", elements, tokens, seed, False))
    return runs


def recalls(path, elements, lengths, reaches, trials=200, seed=1):
    """A run of passkey that finds every key up to `reaches`, and none beyond."""
    records = []
    for length in lengths:
        found = length <= reaches
        low, high = (0.981, 1.0) if found else (0.0, 0.019)
        records.append({"key": f"summary/len={length}", "length_tokens": length, "trials": trials,
                        "accuracy": float(found), "low": low, "high": high})  # fmt: skip
    facts = {"state": state(elements), "training": {"length_tokens": 512, "seed": seed}}
    return journal(path, "passkey", {}, facts, [*records, {"key": "summary", "lengths_tokens": lengths}])


def fit(law, results, tmp_path, *options, bootstrap=0):
    out = tmp_path / "fit.jsonl"
    done = stuffed("fit", law, *results, "-o", out, "--bootstrap", bootstrap, "--overwrite", *options)
    assert done.returncode == 0, done.stderr
    assert lacking([json.loads(line) for line in out.read_text().splitlines()]) == []
    return stuffed_results.read(out, "stuffed.fit"), done


def values_of(run):
    return {name: one["value"] for name, one in run.summary["coefficients"].items()}


def observations(run):
    """x, y and what kind of bound each is: -1 at most, 0 a value, 1 at least; in the units of the law."""
    points = [record for key, record in run.records.items() if key.startswith("point/")]
    kinds = {"at most": -1, "no": 0, "at least": 1}
    rows = [(p["state_elements"] / 1e6, p["tokens"] / 1e3, kinds[p["censored"]]) for p in points]
    return tuple(np.array(rows, dtype=float).T)


def tobit_by_em(x, y, kind):
    """Slope, intercept and deviation: bounds are replaced by their expectations given the line, and the line by least
    squares through those, until nothing moves. Another method than the program's, with the same maximum."""
    design = np.stack([x, np.ones_like(x)], axis=1)
    line, deviation = np.linalg.lstsq(design, y, rcond=None)[0], np.std(y)
    for _ in range(200_000):
        mean = design @ line
        z = kind * (y - mean) / deviation  # the tail beyond z
        tail = np.where(kind == 0, 1, 0.5 * ERFC(z / math.sqrt(2)))
        hazard = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) / tail
        filled = np.where(kind == 0, y, mean + kind * deviation * hazard)
        spread = np.where(kind == 0, 0, deviation**2 * (1 + z * hazard - hazard**2))
        new = np.linalg.lstsq(design, filled, rcond=None)[0]
        width = math.sqrt(np.mean((filled - design @ new) ** 2 + spread))
        moved = max(*np.abs(new - line), abs(width - deviation))
        line, deviation = new, width
        if moved < 1e-13:
            break
    return line[0], line[1], deviation


def log_likelihood(curve, deviation, x, y, kind):
    z = (y - curve(x)) / deviation
    density = -(z**2) / 2 - 0.5 * math.log(2 * math.pi) - math.log(deviation)
    with np.errstate(divide="ignore"):  # a bound far on the wrong side
        beyond = np.log(0.5 * ERFC(kind * z / math.sqrt(2)))
    return np.sum(np.where(kind == 0, density, beyond))


def synthetic_forget(folder, bounds):
    """Thresholds about T = 5 S - 1, three seeds of each of five sizes, some of them known as bounds."""
    dice = np.random.default_rng(3)
    results = []
    for i, elements in enumerate((600_000, 1_200_000, 2_400_000, 4_800_000, 9_600_000)):
        for seed in range(3):
            tokens = 4 * round((5 * elements / 1e6 - 1 + dice.normal(0, 0.8)) * 250)
            tokens = max(tokens, 400)
            bound = bounds.get((i, seed), "no")
            limit = {"no": tokens, "at least": int(tokens * 0.8), "at most": int(tokens * 1.2)}[bound]
            results += threshold(folder, elements, 4 * (limit // 4), seed, bound)
    return results


def test_a_line_without_bounds_is_least_squares(tmp_path):
    run, _ = fit("forget", synthetic_forget(tmp_path, {}), tmp_path)
    x, y, kind = observations(run)
    assert len(x) == 15 and not kind.any()
    slope, intercept = np.polyfit(x, y, 1)
    # Two ways of elimination in f64, numbers of 50 at most: 1e-10 leaves room for a condition of 1e4.
    assert values_of(run) == pytest.approx({"a": slope, "b": intercept}, abs=1e-10)
    residual = y - slope * x - intercept
    assert run.summary["r_squared"] == pytest.approx(1 - residual @ residual / np.sum((y - y.mean()) ** 2), abs=1e-12)
    assert abs(values_of(run)["a"] - 5) < 0.25  # the truth; its standard error is 0.8 / sqrt(15) / 3.3 = 0.06


def test_bounds_count_by_their_likelihood(tmp_path):
    bounds = {(4, 0): "at least", (4, 1): "at least", (3, 2): "at least", (0, 0): "at most", (1, 1): "at most"}
    run, _ = fit("forget", synthetic_forget(tmp_path, bounds), tmp_path)
    x, y, kind = observations(run)
    assert run.summary["points"] == {"uncensored": 10, "at_most": 2, "at_least": 3}
    slope, intercept, deviation = tobit_by_em(x, y, kind)
    # EM gains a digit every few steps and stops at 1e-13; Newton stops at rounding.
    assert values_of(run) == pytest.approx({"a": slope, "b": intercept}, abs=1e-9)
    assert run.summary["deviation_tokens"] == pytest.approx(1e3 * deviation, rel=1e-9)
    assert abs(slope - 5) < 0.4
    assert abs(np.polyfit(x, y, 1)[0] - slope) > 0.05  # what taking bounds for values would change


def test_the_exponential_is_the_best_by_the_likelihood(tmp_path):
    dice = np.random.default_rng(5)
    results, lengths = [], sorted({round(200 * 1.06**i) for i in range(120)})
    for elements in (500_000, 1_000_000, 2_000_000, 4_000_000, 6_000_000, 8_000_000):
        reaches = 1000 * (4.7 * (1.365 ** (elements / 1e6) - 1) + 0.9 + dice.normal(0, 0.3))
        longest = 12_000 if elements == 6_000_000 else 10**9  # of that size only a bound is known
        tried = [n for n in lengths if n <= longest]
        results.append(recalls(tmp_path / f"{elements}.jsonl", elements, tried, reaches))
    run, _ = fit("recall", results, tmp_path)
    x, y, kind = observations(run)
    assert list(kind) == [0, 0, 0, 0, 1, 0]
    found, deviation = values_of(run), run.summary["deviation_tokens"] / 1e3

    def likelihood(a, b, c, width):
        return log_likelihood(lambda s: a * (c**s - 1) + b, width, x, y, kind)

    at = np.array([found["a"], found["b"], found["c"], deviation])
    best = likelihood(*at)
    for size in 10 ** dice.uniform(-6, -0.5, 3000):
        away = at * (1 + size * dice.normal(size=4))
        if away[3] > 0 and away[2] > 0:
            assert likelihood(*away) <= best + 1e-9
    # Flat there. Golden sections stop where the likelihood is flat to rounding, 1e-15, which leaves a gradient of the
    # root of that times the curvature (some 1e7, of c): 1e-4. So much, too, is a third derivative of 1e8 over six by
    # the step's square.
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-6 * abs(at[i])
        slope = (likelihood(*(at + step)) - likelihood(*(at - step))) / 2e-6
        assert abs(slope) < 1e-2, i
    assert abs(found["c"] - 1.365) < 0.05


def test_a_size_that_always_or_never_collapses_is_a_bound(tmp_path):
    results = [losses(tmp_path / f"{n}.jsonl", 10**6, n, 0, collapses=n < 4096) for n in (1024, 2048, 4096, 8192)]
    results += [losses(tmp_path / f"big-{n}.jsonl", 8 * 10**6, n, 0, collapses=True) for n in (1024, 2048)]
    results += [losses(tmp_path / f"small-{n}.jsonl", 10**5, n, 0, collapses=n == 2048) for n in (1024, 2048)]
    results += [losses(tmp_path / "short.jsonl", 10**5, 512, 0, collapses=False, buckets=20)]  # nothing known
    out = tmp_path / "fit.jsonl"
    done = stuffed("fit", "forget", *results, "-o", out)
    refused(done, 3, "1 of 3 points have a value", "train at more lengths")
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    assert ["1000000", "0", "4096", "2048", "to", "4096"] in rows
    assert ["8000000", "0", ">=", "2048", "2048", "to", "-"] in rows
    assert ["100000", "0", "<=", "1024", "-", "to", "1024"] in rows
    assert "collapses when trained at 2048 all the same" in done.stdout
    assert not out.exists()


def test_the_papers_points_give_nearly_its_line(tmp_path):
    run, done = fit("forget", ["--published"], tmp_path, bootstrap=2000)
    x, y = np.array([0, 1.1, 1.62, 2.4, 4.78, 12.88]), np.array([0, 1, 2, 8, 16, 64])
    slope, intercept = np.polyfit(x, y, 1)
    assert values_of(run) == pytest.approx({"a": slope, "b": intercept}, abs=1e-10)
    assert run.summary["paper"]["difference"] == pytest.approx({"a": slope - 5.172, "b": intercept + 4.469}, abs=1e-9)
    a = run.summary["coefficients"]["a"]
    assert a["low"] < a["value"] < a["high"]
    assert run.summary["bootstrap"]["draws"] == 2000
    assert "5.175" in done.stdout and "5.172" in done.stdout and "0.985" in done.stdout


def test_what_is_wrong_is_said(tmp_path):
    out = ["-o", tmp_path / "fit.jsonl"]
    one = losses(tmp_path / "one.jsonl", 10**6, 1024, 1, True)
    refused(stuffed("fit", "recall", "--published", *out), 2, "--published", "prints no points")
    refused(stuffed("fit", "forget", *out), 2, "either results or --published")
    refused(stuffed("fit", "forget", "--published", "--state-rule", "ssm", *out), 2, "--state-rule")
    refused(stuffed("fit", "recall", one, *out), 3, "this fit reads 'stuffed.passkey'")
    twin = losses(tmp_path / "twin.jsonl", 10**6, 1024, 1, True)
    refused(stuffed("fit", "forget", one, twin, *out), 3, "one state size, training length and training seed")
    other = losses(tmp_path / "other.jsonl", 10**6, 2048, 1, True, mitigations=["rri"])
    refused(stuffed("fit", "forget", one, other, *out), 3, "different mitigations")
    old = tmp_path / "old.jsonl"
    old.write_text((RESULTS / "ppl_by_length.v1.jsonl").read_text())
    refused(stuffed("fit", "forget", old, *out), 3, "does not say how large", "measure it again")
    whole = one.read_text().splitlines(keepends=True)
    one.write_text("".join(whole[:-1]))
    refused(stuffed("fit", "forget", one, *out), 3, "is not finished")


def test_a_run_says_what_a_fit_needs_and_a_merged_sweep_keeps_it(tmp_path):
    text = MODELS / "text" / "romans.txt"
    plan = tmp_path / "plan.toml"
    plan.write_text(f"""
[defaults]
device = "cpu"
text = ["{text}"]
length = 256
bucket = 64
train-len = 256
[[runs]]
command = "ppl-by-length"
[runs.grid]
model = ["{MODELS / "mamba2-short"}", "{MODELS / "rwkv6-short"}"]
""")
    assert stuffed("sweep", plan, "-o", tmp_path / "cells").returncode == 0
    merged = tmp_path / "all.jsonl"
    assert stuffed("merge", tmp_path / "cells", "-o", merged).returncode == 0
    cells = stuffed_results.read(merged).config["cells"]
    for cell in cells:
        own = stuffed_results.read(tmp_path / cell["results"]).provenance
        model = pathlib.Path(cell["options"]["model"])
        trained = stuffed_results.read(model / "train.jsonl").config
        assert own["training"] == {"length_tokens": trained["length_tokens"], "seed": trained["seed"]}
        assert cell["training"] == own["training"] and cell["state"] == own["state"]
        told = json.loads(stuffed("inspect", "--json", model).stdout)["state"]
        counts = own["state"]
        assert counts["recurrence_elements"] == told["recurrence_elements"]
        columns = counts["convolution_elements"] + counts["shift_elements"]
        assert counts["recurrence_elements"] + columns == told["with_columns_elements"]
    refused(stuffed("fit", "forget", merged, "-o", tmp_path / "fit.jsonl"), 3, "two families")
