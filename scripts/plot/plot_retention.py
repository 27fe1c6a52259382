#!/usr/bin/env python3
"""Draws the results of `stuffed retention`: what decays leave of a token, half-lives, effective remembrance.

    scripts/plot/plot_retention.py war.jsonl -o figure.png
    scripts/plot/plot_retention.py war.jsonl -o figure.pdf --at 8192 --document 0

Left: surviving weight by distance, a curve per layer (mean over heads), dashed as a mitigation has it. Middle: the
half-life of every head (the mitigated one, if there is a mitigation), layers by heads; red ones outlived the
measurement. Right: effective remembrance (EffRem) of the last n tokens; the training length is red.
Shows the mean over documents (of half-lives the median), or one document. Computes no metric: every number comes from
the run's records and arrays. A run that has not finished is drawn as far as it is, and marked.
"""

import argparse
import math
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import look  # noqa: E402
import matplotlib  # noqa: E402
import stuffed_results  # noqa: E402
import unfinished  # noqa: E402
from look import plt, size_text  # noqa: E402


def numbers(values) -> np.ndarray:
    return np.array([math.nan if v is None else v for v in values], dtype=float)


def draw_weights(figure, axes, point: dict, transition: str) -> None:
    layers = point["surviving_weight_by_layer"]
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.92, len(layers)))
    distance = [n - 1 for n in point["suffix_tokens"]]  # tokens between this one and the last, which is 0
    shown = [i for i, n in enumerate(distance) if n > 0]
    for layer, colour in zip(layers, colours, strict=True):
        weights = numbers(layer)
        axes.plot([distance[i] for i in shown], weights[shown], color=colour)
    mitigated = point.get("mitigated_surviving_weight_by_layer", [])
    for layer, colour in zip(mitigated, colours, strict=False):
        weights = numbers(layer)
        axes.plot([distance[i] for i in shown], weights[shown], color=colour, linestyle="--")
    look.tokens_axis(axes, "distance (tokens)")
    look.plain(axes)
    axes.set_yscale("log")
    axes.set_ylim(bottom=max(1e-6, axes.get_ylim()[0]), top=1.3)
    axes.set_ylabel("surviving weight, mean over heads")
    title = f"after {size_text(point['read_tokens'])} tokens"
    title += " (diagonal part)" if transition != "diagonal" else ""
    axes.set_title(title + ("; dashed: mitigated" if mitigated else ""))
    scale = matplotlib.cm.ScalarMappable(
        matplotlib.colors.BoundaryNorm(np.arange(len(layers) + 1) - 0.5, len(layers)),
        matplotlib.colors.ListedColormap(colours),
    )
    ticks = np.unique(np.linspace(0, len(layers) - 1, min(5, len(layers))).astype(int))
    figure.colorbar(scale, ax=axes, label="layer", ticks=ticks, pad=0.02).ax.minorticks_off()


def draw_half_lives(figure, axes, half_life: np.ndarray, followed: int, title: str) -> None:
    colours = plt.get_cmap("cividis").copy()
    colours.set_bad("#e58b7f")  # far from every colour of the map
    norm = matplotlib.colors.LogNorm(1, max(2, followed))
    image = axes.imshow(half_life, aspect="auto", norm=norm, cmap=colours, origin="lower", interpolation="nearest")
    for axis, count in ((axes.xaxis, half_life.shape[1]), (axes.yaxis, half_life.shape[0])):
        axis.set_major_locator(matplotlib.ticker.MaxNLocator(min(6, max(1, count - 1)), integer=True))
    axes.set_xlabel("head")
    axes.set_ylabel("layer")
    if np.isnan(half_life).any():
        title += f"\nred: {size_text(followed)} or more"
    axes.set_title(title)
    bar = figure.colorbar(image, ax=axes, label="tokens", pad=0.02)
    bar.ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(base=4, numticks=10))
    bar.ax.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(size_text))
    bar.ax.minorticks_off()


def draw_effrem(axes, points: list, train_len, half: float) -> None:
    """`half`: of a 95 % interval, in standard errors."""
    for i, point in enumerate(points):
        values = numbers(point["effrem"])
        label = f"after {size_text(point['read_tokens'])} tokens"
        axes.plot(point["suffix_tokens"], values, label=label, marker="o", markersize=2.5, **look.line(i))
        errors = numbers(point.get("effrem_standard_error", [None] * len(values)))
        low, high = np.clip(values - half * errors, 0, 1), np.clip(values + half * errors, 0, 1)
        axes.fill_between(point["suffix_tokens"], low, high, color=look.line(i)["color"], alpha=0.2, linewidth=0)
    look.train_lengths(axes, [train_len])
    look.tokens_axis(axes, "last n tokens read")
    look.plain(axes)
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("EffRem: total variation")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    look.add_arguments(parser)
    parser.add_argument("--at", type=int, help="of the left panel; default: the most tokens read")
    parser.add_argument("--document", type=int, help="index; default: all of them together")
    parser.add_argument("--own", action="store_true", help="half-lives of the model's own decays, not the mitigated")
    arguments = parser.parse_args(argv)
    with stuffed_results.explained("plot_retention", arguments.results, arguments.output):
        run = unfinished.so_far(stuffed_results.read(arguments.results, "stuffed.retention"))
        key = "summary" if arguments.document is None else f"document={arguments.document}"
        if key not in run.records:
            raise stuffed_results.ResultsError(f"{run.path}: has no record '{key}'")
        record = run.records[key]
        points = {point["read_tokens"]: point for point in record["points"]}
        at = arguments.at or max(points)
        if at not in points:
            raise stuffed_results.ResultsError(
                f"{run.path}: nothing was measured after {at} tokens, only after {[*points]}"
            )
        arrays = unfinished.arrays(run)
        look.use(arguments.style)
        rows, columns = look.grid_shape(3, 3)
        figure, axes = plt.subplots(rows, columns, figsize=look.size(13, 4 * rows), layout="constrained")
        draw_weights(figure, axes[0], points[at], record["transition"])
        every = arguments.document is None
        name = "half_life_tokens"
        title = "half-life of each head" + (" (diagonal part)" if record["transition"] != "diagonal" else "")
        if not arguments.own and f"mitigated/{name}" in arrays:
            name, title = f"mitigated/{name}", "mitigated " + title
        half_life = arrays[f"{name}/median"] if every else arrays[name][arguments.document]
        draw_half_lives(figure, axes[1], half_life, record["half_life"]["followed_tokens"], title)
        half = look.student(record.get("documents", 1))
        draw_effrem(axes[2], record["points"], run.config["train_len_tokens"], half)
        figure.suptitle(look.model_name(run))
        look.legend(figure, axes[2:])
        unfinished.mark(figure, [run])
        look.save(figure, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
