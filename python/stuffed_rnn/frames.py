"""Journals as tables."""

from __future__ import annotations

import math

import numpy as np
import pandas

from stuffed_rnn import stuffed_results
from stuffed_rnn.plot import unfinished


def read(path, *schemas: str) -> pandas.DataFrame:
    """A journal as a table; `attrs` holds its schema, config, provenance, and whether it is finished.

    ppl-by-length: a row per document and bucket. passkey, retrieval: per trial. state-stats: per document, sample,
    layer and head, a column per array of these (what has no head or layer is repeated). retention: per document, tokens
    read, tokens of the suffix, and layer. train: per step. All else: per record, a field of a field as OUTER.INNER.
    """
    run = stuffed_results.read(path, *schemas)
    frame = pandas.DataFrame(_ROWS.get(run.schema, _records)(run))
    frame.attrs = {"schema": run.schema, "config": run.config, "provenance": run.provenance, "finished": run.finished}
    return frame


def _documents(run) -> list[dict]:
    return [record for key, record in run.records.items() if key.startswith("document=")]


def _number(value) -> float:
    return math.nan if value is None else value


def _buckets(run) -> list[dict]:
    rows = []
    for record in _documents(run):
        width = record["bucket_tokens"]
        for bucket, nll in enumerate(map(_number, record["nll_sum_nats"])):
            targets = min(width, record["targets"] - bucket * width)
            rows.append({"document": record["document"], "name": record["name"], "bucket": bucket,
                         "position_tokens": bucket * width, "targets": targets, "nll_sum_nats": nll,
                         "mean_nll_nats": nll / targets})  # fmt: skip
    return rows


def _trials(run) -> list[dict]:
    return [record for record in run.records.values() if "trial" in record]


def _samples(run) -> dict[str, np.ndarray]:
    arrays = unfinished.arrays(run)
    documents, positions = len(arrays["loss.mean_nll"]), arrays["positions"]
    axes = [np.arange(documents), positions, arrays["layers"], arrays["heads"]]
    shape = tuple(map(len, axes))
    names = ["document", "position_tokens", "layer", "head"]
    columns = {name: axis.ravel() for name, axis in zip(names, np.meshgrid(*axes, indexing="ij"), strict=True)}
    for name, array in sorted(arrays.items()):
        if array.ndim >= 2 and array.shape == shape[: array.ndim]:
            whole = array.reshape(array.shape + (1,) * (4 - array.ndim))
            columns[name] = np.broadcast_to(whole, shape).ravel()
    return columns


def _suffixes(run) -> list[dict]:
    weights = {"surviving_weight": "surviving_weight_by_layer"}
    weights["mitigated_surviving_weight"] = "mitigated_surviving_weight_by_layer"
    return [
        {"document": record["document"], "read_tokens": point["read_tokens"], "suffix_tokens": suffix, "layer": layer,
         "effrem": _number(point["effrem"][i]),
         **{name: _number(point[field][layer][i]) for name, field in weights.items() if field in point}}
        for record in _documents(run)
        for point in record["points"]
        for i, suffix in enumerate(point["suffix_tokens"])
        for layer in range(len(point["surviving_weight_by_layer"]))
    ]  # fmt: skip


def _steps(run) -> list[dict]:
    return [record for key, record in run.records.items() if key.startswith("step=")]


def _records(run) -> pandas.DataFrame:
    return pandas.json_normalize([record for key, record in run.records.items() if not key.startswith("summary")])


_ROWS = {
    "stuffed.passkey": _trials,
    "stuffed.ppl_by_length": _buckets,
    "stuffed.retention": _suffixes,
    "stuffed.retrieval": _trials,
    "stuffed.state_stats": _samples,
    "stuffed.train": _steps,
}
