#!/usr/bin/env python3
"""Draws what `stuffed fit` found: points, curve and 95 % band over the size of the state, the paper's curve beside it.

    scripts/plot/plot_fit.py forget.jsonl -o figure.png
    scripts/plot/plot_fit.py mamba2.jsonl rwkv6.jsonl --label Mamba-2 --label RWKV-6 -o figure.png

All results must be of one law. A point that is only a bound is hollow, with an arrow to the side where the value lies;
a bar reaches from its low to its high end. The paper's curve is dotted and black. Computes no metric.
"""

import argparse
import math
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import look  # noqa: E402
import matplotlib  # noqa: E402
import stuffed_results  # noqa: E402
from look import plt  # noqa: E402

Y_LABELS = {"forget": "shortest training length without collapse", "recall": "longest prompt recalled"}


def number(value) -> float:
    return math.nan if value is None else value


def numbers(values) -> list[float]:
    return [number(value) for value in values]


def points_of(run) -> list[dict]:
    return [record for key, record in run.records.items() if key.startswith("point/")]


def draw_point(axes, point: dict, colour: str) -> None:
    x, y = point["state_elements"], point["tokens"]
    low, high = number(point["low_tokens"]), number(point["high_tokens"])
    is_bound = point["censored"] != "no"
    if not is_bound and not math.isnan(low + high):
        axes.plot([x, x], [low, high], color=colour, linewidth=0.9, gid="rule bracket")
    axes.plot([x], [y], "o", color=colour, markerfacecolor="white" if is_bound else colour, markersize=5)
    if is_bound:
        away = (0, 18 if point["censored"] == "at least" else -18)
        arrow = {"arrowstyle": "<-", "color": colour}
        axes.annotate("", xy=(x, y), xytext=away, textcoords="offset points", arrowprops=arrow)


def draw(axes, run, label: str, i: int, log_y: bool) -> None:
    curve, look_of = run.summary["curve"], look.line(i)
    x, y = curve["state_elements"], numbers(curve["tokens"])
    floor = min(point["tokens"] for point in points_of(run) if point["tokens"] > 0) / 4 if log_y else -math.inf
    axes.plot(x, [v if v > floor else math.nan for v in y], label=label, **look_of)
    low, high = numbers(curve["low_tokens"]), numbers(curve["high_tokens"])
    axes.fill_between(x, [max(v, floor) for v in low], high, color=look_of["color"], alpha=0.15, linewidth=0)
    for point in points_of(run):
        if not log_y or point["tokens"] > 0:
            draw_point(axes, point, look_of["color"])


def draw_paper(axes, runs, log_y: bool) -> None:
    curve = max((run.summary["curve"] for run in runs), key=lambda curve: curve["state_elements"][-1])
    tokens = [v if v > 0 or not log_y else math.nan for v in curve["paper_tokens"]]
    axes.plot(curve["state_elements"], tokens, ":", color="black", linewidth=1.1, label="the paper's", gid="rule paper")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", help="results of stuffed fit, of one law")
    look.add_arguments(parser)
    parser.add_argument("--log-y", action="store_true", help="the logarithm of the lengths")
    parser.add_argument("--label", action="append", default=[], help="name of a result, in order; default: its file's")
    arguments = parser.parse_args()
    with stuffed_results.explained("plot_fit", arguments.results, arguments.output):
        runs = [stuffed_results.read(path, "stuffed.fit") for path in arguments.results]
        law = runs[0].config["law"]
        for run in runs:
            if run.config["law"] != law:
                raise stuffed_results.ResultsError(f"{run.path}: is of the law {run.config['law']}, not {law}")
        names = [arguments.label[i] if i < len(arguments.label) else run.path.stem for i, run in enumerate(runs)]
        look.use(arguments.style)
        figure, axes = plt.subplots(figsize=look.size(6, 4), layout="constrained")
        for i, (run, name) in enumerate(zip(runs, names, strict=True)):
            draw(axes, run, name, i, arguments.log_y)
        draw_paper(axes, runs, arguments.log_y)
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value / 1e6:g}"))
        axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(look.size_text))
        axes.set_xlabel("state (million elements)")
        axes.set_ylabel(f"{Y_LABELS[law]} (tokens)")
        axes.set_title(runs[0].summary["form"])
        look.y_axis(axes, arguments.log_y)
        look.plain(axes)
        look.legend(figure, [axes])
        look.save(figure, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
