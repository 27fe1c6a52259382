#!/usr/bin/env python3
"""Prints runs of `stuffed ppl-by-length` side by side: the mean loss of the bucket at each position, in nats.

    scripts/plot/table_ppl_by_length.py none.jsonl rri.jsonl --positions 64 256 1024

Computes no metric: every number is a bucket of a run's summary; what follows ± is its standard error over documents.
Default positions: half the training length, the training length, and every power of four of it that the runs reach.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import stuffed_results  # noqa: E402
import unfinished  # noqa: E402


def default_positions(runs) -> list[int]:
    train_len = min((r.config["train_len_tokens"] for r in runs if r.config["train_len_tokens"]), default=1024)
    if train_len <= 0:
        raise ValueError(f"train_len_tokens is {train_len}")
    reached = min(len(r.summary["mean_nll_nats"]) * r.summary["bucket_tokens"] for r in runs)
    positions = [train_len // 2, train_len]
    while positions[-1] * 4 < reached:
        positions.append(positions[-1] * 4)
    return [*(p for p in positions if p < reached), reached - 1]


def cell(summary, position: int) -> str:
    bucket = position // summary["bucket_tokens"]
    if bucket >= len(summary["mean_nll_nats"]):
        return "-"
    mean, error = summary["mean_nll_nats"][bucket], summary["standard_error_nats"][bucket]
    if mean is None:
        return "not finite"
    return f"{mean:.3f}" + ("" if error is None else f" ±{error:.3f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("--positions", nargs="+", type=int, help="tokens")
    arguments = parser.parse_args()
    with stuffed_results.explained("table_ppl_by_length", arguments.results):
        runs = [
            unfinished.so_far(stuffed_results.read(path, "stuffed.ppl_by_length")) for path in arguments.results
        ]
        positions = arguments.positions or default_positions(runs)
        names = [unfinished.label(run, run.path.stem) for run in runs]
        wide = max(map(len, [*names, "position"]))
        print(" ".join([f"{'position':{wide}}", *(f"{p:>15}" for p in positions)]))
        for name, run in zip(names, runs, strict=True):
            print(" ".join([f"{name:{wide}}", *(f"{cell(run.summary, p):>15}" for p in positions)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
