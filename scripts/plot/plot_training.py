#!/usr/bin/env python3
"""Draws what `stuffed train` recorded: the loss over the steps, and the validation loss by position over time.

    scripts/plot/plot_training.py short/train.jsonl long/train.jsonl -o figure.png

Above, one line per run, by colour and dashes: loss in nats, with spikes marked. Below, one panel per source of
validation (and per run, if there are several): a line per validation, from the first (dark) to the last (bright), by
position; the training length is red. Journals of before validation by position have no panels. Computes no metric. A
run that has not finished is drawn as far as it is, and marked.
"""

import argparse
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import look  # noqa: E402
import matplotlib  # noqa: E402
import stuffed_results  # noqa: E402
import unfinished  # noqa: E402
from look import plt  # noqa: E402


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


def draw_losses(axes, runs, labels, log_y: bool) -> None:
    for i, (run, label) in enumerate(zip(runs, labels, strict=True)):
        records = steps_of(run)
        axes.plot([r["step"] for r in records], [number(r["loss_nats"]) for r in records], label=label, **look.line(i))
        spikes = spikes_of(run)
        if spikes:
            axes.plot([s["step"] for s in spikes], [number(s["loss_nats"]) for s in spikes], "x",
                      color=look.line(i)["color"], markersize=5, label=f"{label}: spikes")  # fmt: skip
    axes.set_xlabel("step")
    axes.set_ylabel("loss (nats per token)")
    axes.set_title(look.title(runs))
    look.y_axis(axes, log_y)
    look.plain(axes)


def draw_positions(figure, axes, run, title: str, records: list[dict], log_y: bool) -> None:
    steps = [record["step"] for record in records]
    norm = matplotlib.colors.Normalize(min(steps), max(max(steps), min(steps) + 1))
    scale = matplotlib.cm.ScalarMappable(norm, matplotlib.colormaps["viridis"].resampled(256))
    for record in records:
        ends = record["position_ends"]
        middles = [math.sqrt(max(1, begin) * end) for begin, end in zip([0, *ends], ends, strict=False)]
        losses = [number(x) for x in record["by_position_nats"]]
        axes.plot(middles, losses, color=scale.to_rgba(record["step"]), linewidth=1.6 if record is records[-1] else 0.9)
    look.train_lengths(axes, [run.config["length_tokens"]])
    look.tokens_axis(axes, "position (tokens)")
    look.y_axis(axes, log_y)
    axes.set_title(title)
    look.plain(axes)
    figure.colorbar(scale, ax=axes, label="step", pad=0.02)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="train.jsonl of one or more runs")
    look.add_arguments(parser)
    parser.add_argument("--log-y", action="store_true", help="the logarithm of the losses")
    parser.add_argument(
        "--label", action="append", default=[], help="name of a run, in order; default: its folder's name"
    )
    arguments = parser.parse_args(argv)
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
        look.use(arguments.style)
        rows, columns = look.grid_shape(max(1, len(panels)), 3)
        rows = rows + 1 if panels else 1
        figure = plt.figure(figsize=look.size(3.2 * max(2, columns), 3 * rows), layout="constrained")
        grid = figure.add_gridspec(rows, columns)
        top = figure.add_subplot(grid[0, :])
        draw_losses(top, runs, labels, arguments.log_y)
        shown = [top]
        for i, (run, title, records) in enumerate(panels):
            shown.append(figure.add_subplot(grid[1 + i // columns, i % columns]))
            draw_positions(figure, shown[-1], run, title, records, arguments.log_y)
            if i % columns == 0:
                shown[-1].set_ylabel("validation loss (nats)")
        look.legend(figure, shown)
        unfinished.mark(figure, runs)
        look.save(figure, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
