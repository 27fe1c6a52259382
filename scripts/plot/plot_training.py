#!/usr/bin/env python3
"""Draws what `stuffed train` recorded: the loss over the steps, and the validation loss by position over time.

    scripts/plot/plot_training.py short/train.jsonl long/train.jsonl -o figure.png

Above, one line per run: loss in nats, with spikes marked. Below, one panel per source of validation (and per run, if
there are several): a line per validation, from the first (pale) to the last (dark), by position; the training length is
a dashed red line. Journals of before validation by position have no panels. Computes no metric. A run that has not
finished is drawn as far as it is, and marked.
"""

import argparse
import math
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import stuffed_results  # noqa: E402
import unfinished  # noqa: E402

COLOURS = ["#1f5fa8", "#d97706", "#15803d", "#7c3aed", "#0e7490", "#be185d"]  # none near the red of the training length


def number(nats) -> float:
    return math.nan if nats is None else nats


def steps_of(run) -> list[dict]:
    return [record for key, record in run.records.items() if key.startswith("step=")]


def spikes_of(run) -> list[dict]:
    return [record for key, record in run.records.items() if key.startswith("spike/")]


def validations(run) -> dict[str, list[dict]]:
    """Records with a loss by position, by source, in the order of the steps."""
    found: dict[str, list[dict]] = {}
    for key, record in run.records.items():
        if key.startswith("validation/") and "by_position_nats" in record:
            found.setdefault(record["source"], []).append(record)
    return found


def draw_losses(axes, runs, labels) -> None:
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        records = steps_of(run)
        axes.plot([r["step"] for r in records], [number(r["loss_nats"]) for r in records], color=colour, linewidth=1.3,
                  label=label)  # fmt: skip
        spikes = spikes_of(run)
        if spikes:
            axes.plot([s["step"] for s in spikes], [number(s["loss_nats"]) for s in spikes], "x", color=colour,
                      markersize=5, label=f"{label}: spikes")  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=8)


def draw_positions(axes, run, title: str, records: list[dict]) -> None:
    for i, record in enumerate(records):
        ends = record["position_ends"]
        middles = [math.sqrt(max(1, begin) * end) for begin, end in zip([0, *ends], ends, strict=False)]
        shade = 0.25 + 0.75 * (i + 1) / len(records)
        last = i + 1 == len(records)
        label = f"step {record['step']}" if i == 0 or last else None
        losses = [number(x) for x in record["by_position_nats"]]
        axes.plot(middles, losses, color="#1f5fa8", alpha=shade, linewidth=1.6 if last else 0.9, label=label)
    axes.axvline(run.config["length_tokens"], color="red", linestyle="--", linewidth=1.1)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("position (tokens)")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, fontsize=7)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="train.jsonl of one or more runs")
    parser.add_argument("-o", "--output", required=True, type=stuffed_results.figure_path, help="FIG.png or FIG.pdf")
    parser.add_argument(
        "--label", action="append", default=[], help="name of a run, in order; default: its folder's name"
    )
    arguments = parser.parse_args()
    with stuffed_results.explained("plot_training", arguments.results, arguments.output):
        runs = [stuffed_results.read(path, "stuffed.train") for path in arguments.results]
        for run in runs:
            if not steps_of(run):
                raise stuffed_results.ResultsError(f"{run.path}: holds no step yet; let the run go on")
        names = [arguments.label[i] if i < len(arguments.label) else run.path.resolve().parent.name
                 for i, run in enumerate(runs)]  # fmt: skip
        labels = [unfinished.label(run, name) for run, name in zip(runs, names, strict=True)]
        panels = [
            (run, source if len(runs) == 1 else f"{name}: {source}", records)
            for run, name in zip(runs, names, strict=True)
            for source, records in validations(run).items()
        ]
        rows = 1 + -(-len(panels) // 3)
        figure = plt.figure(figsize=(8, 3 * rows), layout="constrained")
        grid = figure.add_gridspec(rows, 3)
        draw_losses(figure.add_subplot(grid[0, :]), runs, labels)
        for i, (run, title, records) in enumerate(panels):
            axes = figure.add_subplot(grid[1 + i // 3, i % 3])
            draw_positions(axes, run, title, records)
            if i % 3 == 0:
                axes.set_ylabel("validation loss (nats)")
        unfinished.mark(figure, runs)
        figure.savefig(arguments.output, dpi=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
