#!/usr/bin/env python3
"""Draws loss or perplexity by position from the results of `stuffed ppl-by-length`.

    scripts/plot/plot_ppl_by_length.py short.jsonl long.jsonl -o figure.png --log-x

One line per run; the band is the 95 % interval over documents (absent for a single one); the training length is a
dashed red line. Computes no metric: every number comes from the runs' summaries. A run that has not finished is drawn
as far as it is, and marked.
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


def value(nats, perplexity: bool) -> float:
    if nats is None:
        return math.nan
    return math.exp(nats) if perplexity else nats


def draw(axes, run, label: str, colour: str, perplexity: bool) -> None:
    summary = run.summary
    width = summary["bucket_tokens"]
    means, errors = summary["mean_nll_nats"], summary["standard_error_nats"]
    positions = [(b + 0.5) * width for b in range(len(means))]
    axes.plot(positions, [value(m, perplexity) for m in means], color=colour, linewidth=1.4, label=label)
    interval = [
        (m - 1.96 * e, m + 1.96 * e) if m is not None and e is not None else (None, None)
        for m, e in zip(means, errors, strict=True)
    ]
    axes.fill_between(
        positions,
        [value(low, perplexity) for low, _ in interval],
        [value(high, perplexity) for _, high in interval],
        color=colour,
        alpha=0.2,
        linewidth=0,
    )


def size_text(tokens: float, _=None) -> str:
    for unit, scale in (("M", 1 << 20), ("K", 1 << 10)):
        if tokens >= scale:
            return f"{tokens / scale:.3g}{unit}"
    return f"{tokens:.3g}"


def finish_axes(axes, runs, arguments) -> None:
    for train_len in sorted({run.config["train_len_tokens"] for run in runs} - {None}):
        axes.axvline(
            train_len, color="red", linestyle="--", linewidth=1.1, label=f"training length {size_text(train_len)}"
        )
    longest = max(len(run.summary["mean_nll_nats"]) * run.summary["bucket_tokens"] for run in runs)
    if arguments.log_x:
        axes.set_xscale("log", base=2)
    else:
        axes.set_xlim(0, longest)
        step = 2 ** max(0, math.ceil(math.log2(longest / 6)))
        axes.set_xticks([i * step for i in range(int(longest / step) + 1)])
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(size_text))
    axes.set_ylim(bottom=0)
    if arguments.y_max:
        axes.set_ylim(top=arguments.y_max)
    axes.set_xlabel("position (tokens)")
    axes.set_ylabel("perplexity" if arguments.perplexity else "loss (nats per token)")
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    parser.add_argument("-o", "--output", required=True, type=stuffed_results.figure_path, help="FIG.png or FIG.pdf")
    parser.add_argument(
        "--label", action="append", default=[], help="name of a run, in order; default: its file's name"
    )
    parser.add_argument("--perplexity", action="store_true", help="instead of the loss in nats")
    parser.add_argument("--log-x", action="store_true")
    parser.add_argument("--y-max", type=float)
    arguments = parser.parse_args()
    with stuffed_results.explained("plot_ppl_by_length", arguments.results, arguments.output):
        runs = [
            unfinished.so_far(stuffed_results.read(path, "stuffed.ppl_by_length")) for path in arguments.results
        ]
        figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
        for i, run in enumerate(runs):
            label = arguments.label[i] if i < len(arguments.label) else run.path.stem
            draw(axes, run, unfinished.label(run, label), COLOURS[i % len(COLOURS)], arguments.perplexity)
        finish_axes(axes, runs, arguments)
        unfinished.mark(figure, runs)
        figure.savefig(arguments.output, dpi=160)
    return 0


if __name__ == "__main__":
    sys.exit(main())
