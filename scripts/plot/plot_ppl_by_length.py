#!/usr/bin/env python3
"""Draws loss or perplexity by position from the results of `stuffed ppl-by-length`.

    scripts/plot/plot_ppl_by_length.py short.jsonl long.jsonl -o figure.png
    scripts/plot/plot_ppl_by_length.py war.jsonl -o figure --perplexity --log-y --style paper

One line per run, by colour and dashes; the band is the 95 % interval over documents (Student's t; absent for a single
one); training lengths are red. Positions are in the logarithm unless --linear-x is given. Computes no metric: every
number comes from the runs' summaries. A run that has not finished is drawn as far as it is, and marked.
"""

import argparse
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import look  # noqa: E402
import stuffed_results  # noqa: E402
import unfinished  # noqa: E402
from look import plt  # noqa: E402


def value(nats, perplexity: bool) -> float:
    if nats is None:
        return math.nan
    return math.exp(nats) if perplexity else nats


def draw(axes, run, label: str, style: dict, perplexity: bool) -> None:
    summary = run.summary
    width = summary["bucket_tokens"]
    means, errors = summary["mean_nll_nats"], summary["standard_error_nats"]
    positions = [(b + 0.5) * width for b in range(len(means))]
    axes.plot(positions, [value(m, perplexity) for m in means], label=label, **style)
    half = look.student(summary["documents"])
    interval = [
        (m - half * e, m + half * e) if m is not None and e is not None else (None, None)
        for m, e in zip(means, errors, strict=True)
    ]
    axes.fill_between(
        positions,
        [value(low, perplexity) for low, _ in interval],
        [value(high, perplexity) for _, high in interval],
        color=style["color"],
        alpha=0.2,
        linewidth=0,
    )


def finish_axes(axes, runs, arguments) -> None:
    look.train_lengths(axes, [run.config["train_len_tokens"] for run in runs])
    longest = max(len(run.summary["mean_nll_nats"]) * run.summary["bucket_tokens"] for run in runs)
    look.tokens_axis(axes, "position (tokens)", arguments.log_x, longest)
    look.y_axis(axes, arguments.log_y, arguments.y_max)
    axes.set_ylabel("perplexity" if arguments.perplexity else "loss (nats per token)")
    axes.set_title(look.title(runs))
    look.plain(axes)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+")
    look.add_arguments(parser)
    parser.add_argument(
        "--label", action="append", default=[], help="name of a run, in order; default: its file's name"
    )
    parser.add_argument("--perplexity", action="store_true", help="instead of the loss in nats")
    parser.add_argument("--log-x", action="store_true", default=True, help="the default")
    parser.add_argument("--linear-x", dest="log_x", action="store_false", help="no logarithm of the positions")
    parser.add_argument("--log-y", action="store_true", help="the logarithm of the loss or perplexity")
    parser.add_argument("--y-max", type=float)
    arguments = parser.parse_args(argv)
    with stuffed_results.explained("plot_ppl_by_length", arguments.results, arguments.output):
        runs = [
            unfinished.so_far(stuffed_results.read(path, "stuffed.ppl_by_length")) for path in arguments.results
        ]
        look.use(arguments.style)
        figure, axes = plt.subplots(figsize=look.size(6, 3.8), layout="constrained")
        for i, run in enumerate(runs):
            label = arguments.label[i] if i < len(arguments.label) else run.path.stem
            draw(axes, run, unfinished.label(run, label), look.line(i), arguments.perplexity)
        finish_axes(axes, runs, arguments)
        look.legend(figure, [axes], most_columns=2)
        unfinished.mark(figure, runs)
        look.save(figure, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
