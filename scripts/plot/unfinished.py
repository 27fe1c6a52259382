"""Pictures from a run that has not finished: its summary so far, and the mark that says so.

run = stuffed_results.read("war.jsonl"); shown = unfinished.so_far(run)
draw(shown); unfinished.mark(figure, [shown])

A finished run passes through as it is. The summary so far is what the command itself would write if its input ended
with the last record; tests hold it to that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import numpy as np
import stuffed_results
from stuffed_results import ResultsError, Run


def so_far(run: Run) -> Run:
    """The run with a summary of the records that are there, or as it is if it has its own."""
    if "summary" in run.records:
        return run
    summaries = SUMMARIES.get(run.schema)
    if summaries is None:
        raise ResultsError(f"{run.path}: {run.schema} has no summary")
    more = summaries(run)
    if not more:
        raise ResultsError(f"{run.path}: holds no measurement yet; let the run go on (the same command resumes)")
    return dataclasses.replace(run, records={**run.records, **more})


def mark(figure, runs: list[Run]) -> None:
    """Says across the picture, and small at its foot, that a run of it is unfinished."""
    unfinished = [run for run in runs if not run.finished]
    if not unfinished:
        return
    names = ", ".join(f"{run.path.name} ({_progress(run)})" for run in unfinished)
    size = 4 * min(figure.get_size_inches())
    figure.text(0.5, 0.5, "unfinished", ha="center", va="center", rotation=20, alpha=0.2, color="red", size=3 * size)
    figure.text(0.995, 0.005, f"unfinished: {names}", ha="right", va="bottom", color="red", size=max(4, size / 2))


def label(run: Run, text: str) -> str:
    return text if run.finished else f"{text} (unfinished)"


def _progress(run: Run) -> str:
    written = sum(not key.startswith("summary") for key in run.records)
    return f"{written} record{'s' if written != 1 else ''}"


def arrays(run: Run) -> dict:
    """The arrays of a finished run; of another, those of the documents that are measured."""
    try:
        return stuffed_results.arrays(run)
    except ResultsError:
        parts = _parts(run)
        if run.finished or not parts:
            raise
        return _joined(run, parts)


def _parts(run: Run) -> list[dict]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = run.path.parent / f"{run.config.get('arrays')}.partial"
    found = [folder / f"document={i}.safetensors" for i in range(len(_documents(run)))]
    try:
        return [load_file(path) for path in found if path.exists()]
    except (OSError, SafetensorError) as error:
        raise ResultsError(f"{folder}: cannot be read: {error}") from error


def _joined(run: Run, parts: list[dict]) -> dict:
    """Documents along a new first axis, samples that a shorter one lacks NaN, and the axes' names."""
    joined = {}
    for name in set.intersection(*(set(part) for part in parts)):
        of_documents = [part[name] for part in parts]
        longest = max(len(array) for array in of_documents)
        if any(len(array) < longest for array in of_documents):
            of_documents = [_padded(array, longest) for array in of_documents]
        joined[name] = np.stack(of_documents)
    if run.schema == "stuffed.state_stats":
        joined.update(_axes(run, joined))
    for name in ("half_life_tokens", "mitigated/half_life_tokens"):
        if name in joined:
            joined[f"{name}/median"] = _upper_median(joined[name])
    return joined


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    missing = np.full((length - len(array), *array.shape[1:]), np.nan, array.dtype)
    return np.concatenate([array, missing])


def _axes(run: Run, arrays: dict) -> dict:
    _, samples, layers, heads = arrays["state.variance"].shape
    axes = {"positions": (1 + np.arange(samples)) * run.config["stride_tokens"]}
    for name, count in (("layers", layers), ("heads", heads)):
        axes[name] = np.arange(count) if run.config[name] == "all" else np.array(run.config[name])
    if run.config["histogram_at"]:
        axes["histogram.positions"] = np.array(sorted(set(run.config["histogram_at"])))
    return axes


def _upper_median(half_lives: np.ndarray) -> np.ndarray:
    """Over documents; NaN, a half-life that outlived the measurement, is the longest."""
    ordered = np.sort(np.where(np.isnan(half_lives), np.inf, half_lives), axis=0)
    median = ordered[len(ordered) // 2]
    return np.where(np.isinf(median), np.nan, median)


def _documents(run: Run) -> list[dict]:
    records = [record for key, record in run.records.items() if key.startswith("document=")]
    return sorted(records, key=lambda record: record["document"])


def _number(value: float):
    return value if math.isfinite(value) else None


def _value(number) -> float:
    return math.nan if number is None else number


def _standard_error(values: list[float]):
    """Of the mean; None for a single value."""
    return _number(float(np.std(values, ddof=1)) / math.sqrt(len(values))) if len(values) > 1 else None


def _ppl_by_length(run: Run) -> dict:
    width = run.config["bucket_tokens"]
    sums = [(list(map(_value, record["nll_sum_nats"])), record["targets"]) for record in _documents(run)]
    sums += _document_at_hand(run, width)
    longest = max((targets for _, targets in sums), default=0)
    means, errors = [], []
    for bucket in range(-(-longest // width)):
        there = [
            (nll[bucket], min(width, targets - bucket * width)) for nll, targets in sums if bucket * width < targets
        ]
        means.append(_number(sum(nll for nll, _ in there) / sum(count for _, count in there)))
        errors.append(_standard_error([nll / count for nll, count in there]))
    summary = {"bucket_tokens": width, "length_tokens": longest, "documents": len(sums)}
    return {"summary": {**summary, "mean_nll_nats": means, "standard_error_nats": errors}} if means else {}


def _document_at_hand(run: Run, width: int) -> list[tuple[list, int]]:
    """The whole buckets of documents a stopped run is in the middle of, from OUT.jsonl.state; [] if there is none."""
    from safetensors import SafetensorError, safe_open

    path = run.path.with_name(run.path.name + ".state")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            header = run.path.read_bytes().split(b"\n")[0] + b"\n"
            if metadata.get("journal") != hashlib.sha256(header).hexdigest():
                return []
            if metadata["place"].split(" ")[0] in run.records:
                return []  # measured since
            buckets = json.loads(metadata["fields"])["task"]["position"] // width
            rows = len(file.get_tensor("not_finite"))
            sums = [file.get_tensor(f"nll_sum.{row}")[:buckets].tolist() for row in range(rows)]
    except (OSError, SafetensorError, KeyError):
        return []
    return [(nll, buckets * width) for nll in sums if buckets > 0]


def _state_stats(run: Run) -> dict:
    documents = len(_documents(run))
    return {"summary": {"documents": documents, "exploding": None}} if documents else {}


def _retention(run: Run) -> dict:
    records = _documents(run)
    if not records:
        return {}
    summary = {key: records[0][key] for key in ("transition", "half_life")}
    summary["documents"] = len(records)
    summary["points"] = [_point([record["points"][i] for record in records]) for i in range(len(records[0]["points"]))]
    return {"summary": summary}


def _point(points: list[dict]) -> dict:
    point = {key: points[0][key] for key in ("read_tokens", "suffix_tokens")}
    for key in ("effrem", "surviving_weight_by_layer", "mitigated_surviving_weight_by_layer"):
        if all(key in one for one in points):
            values = np.array([one[key] for one in points], dtype=float)
            point[key] = _nested(values.mean(axis=0))
    columns = np.array([one["effrem"] for one in points], dtype=float).T
    point["effrem_standard_error"] = [_standard_error(column.tolist()) for column in columns]
    return point


def _nested(array: np.ndarray) -> list:
    return [_number(float(x)) if x.ndim == 0 else _nested(x) for x in array]


def _trials(run: Run) -> dict:
    lengths = sorted(set(run.config["lengths_tokens"]))
    trials = [record for record in run.records.values() if "trial" in record]
    if not trials:
        return {}
    summaries = {f"summary/len={length}": _cells(run, length, trials) for length in lengths}
    summaries["summary"] = {"lengths_tokens": lengths, "last_tokens": _last_tokens(lengths, trials)}
    return summaries


def _cells(run: Run, length: int, trials: list[dict]) -> dict:
    of_length = [trial for trial in trials if trial["length_tokens"] == length]
    cells = [
        _score([trial for trial in of_length if trial["depth_index"] == depth]) for depth in range(run.config["depths"])
    ]
    return {"length_tokens": length, "depths": cells}


def _score(trials: list[dict]):
    """Accuracy with Wilson's 95 % interval; None without a trial. Answers that were cut off count for nothing."""
    counted = [trial for trial in trials if not trial.get("answer_cut")]
    if not counted:
        return None
    scores, correct = [t.get("score", t["correct"]) for t in counted], sum(t["correct"] for t in counted)
    n, p, z = len(scores), sum(scores) / len(scores), 1.959963984540054
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return {"trials": n, "correct": correct, "accuracy": p, "low": low, "high": high}


def _last_tokens(lengths: list[int], trials: list[dict]) -> list[dict]:
    curves, last = [], 1
    while last <= lengths[-1] // 2:
        near = [
            trial
            for trial in trials
            if "needle_token" in trial
            and last <= trial["length_tokens"]
            and trial["prompt_tokens"] - trial["needle_token"] <= last
        ]
        if 16 * last >= lengths[-1] and near:
            points = [_score([t for t in near if t["length_tokens"] == length]) for length in lengths]
            curves.append({"last_tokens": last, "points": points})
        last *= 2
    return curves


SUMMARIES = {
    "stuffed.passkey": _trials,
    "stuffed.ppl_by_length": _ppl_by_length,
    "stuffed.retention": _retention,
    "stuffed.retrieval": _trials,
    "stuffed.state_stats": _state_stats,
}
