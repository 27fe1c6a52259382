#!/usr/bin/env python3
"""Draws a passkey run: the heat map over length and depth, and accuracy for answers within the last tokens.

    scripts/plot/plot_passkey.py passkey.jsonl -o figures
    scripts/plot/plot_passkey.py passkey.jsonl -o passkey.png

Writes heat_map.pdf and acc_curve.pdf into a folder, or both side by side into one picture. A cell is drawn where its
needles are, which is not quite the depth asked for: a needle replaces a whole block of filler. Cells without a trial
are grey, so that they are not taken for zero. A run that has not finished is drawn as far as it is, and marked.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import stuffed_results  # noqa: E402
import unfinished  # noqa: E402

NO_DATA = "0.8"  # grey


def label(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens % 1024 == 0 else str(tokens)


def accuracy_grid(run: stuffed_results.Run) -> tuple[list[int], np.ndarray]:
    """Lengths, and accuracy [depths, lengths], masked where there is no trial."""
    lengths = run.records["summary"]["lengths_tokens"]
    grid = np.full((run.config["depths"], len(lengths)), np.nan)
    for column, length in enumerate(lengths):
        for row, cell in enumerate(run.records[f"summary/len={length}"]["depths"]):
            if cell is not None:
                grid[row, column] = cell["accuracy"]
    return lengths, np.ma.masked_invalid(grid)


def real_depths(run: stuffed_results.Run) -> np.ndarray:
    """Where the needles of each cell are, 0 to 1: [depths, lengths], from the trials' blocks, which journals of every
    age hold; NaN where there is no trial."""
    lengths = run.records["summary"]["lengths_tokens"]
    places = [[[] for _ in lengths] for _ in range(run.config["depths"])]
    for record in run.records.values():
        if "position_blocks" in record:
            place = record["position_blocks"] / max(1, record["blocks"] - 1)
            places[record["depth_index"]][lengths.index(record["length_tokens"])].append(place)
    return np.array([[np.mean(cell) if cell else np.nan for cell in row] for row in places])


def column(depths: np.ndarray, accuracies: np.ma.MaskedArray) -> tuple[np.ndarray, np.ma.MaskedArray]:
    """Edges and values of a length's cells from the top: each reaches half-way to its neighbours, the outermost to 0
    and 1. Cells whose needles are at one place (there are fewer blocks than depths) are one, their mean."""
    there = ~np.isnan(depths)
    places, which = np.unique(depths[there], return_inverse=True)
    known = np.ma.filled(accuracies.astype(float), np.nan)[there]
    together = [known[(which == i) & ~np.isnan(known)] for i in range(len(places))]
    values = [cell.mean() if len(cell) else np.nan for cell in together] or [np.nan]
    edges = np.concatenate([[0.0], (places[1:] + places[:-1]) / 2, [1.0]])
    return edges, np.ma.masked_invalid(values)


def heat_map(axes, run: stuffed_results.Run) -> None:
    lengths, grid = accuracy_grid(run)
    depths = real_depths(run)
    colours = matplotlib.colormaps["RdYlGn"].with_extremes(bad=NO_DATA)
    for i in range(len(lengths)):
        edges, values = column(depths[:, i], grid[:, i])
        axes.pcolormesh([i - 0.5, i + 0.5], edges, values[:, None], cmap=colours, vmin=-0.2, vmax=1.2)
    axes.set_ylim(1, 0)
    longest = max(lengths)
    ticks = [i for i, n in enumerate(lengths) if n == longest or (n & (n - 1)) == 0]
    ticks = ticks[-8:] if len(ticks) > 8 else ticks
    axes.set_xticks(ticks, [label(lengths[i]) for i in ticks], rotation=45, fontsize=6)
    axes.set_yticks([0, 0.5, 1], ["0", "50", "100"], fontsize=6)
    axes.set_xlabel("Context Len.", fontsize=7)
    axes.set_ylabel("Ans. Depth (%)", fontsize=7)


def curves(axes, run: stuffed_results.Run) -> None:
    summary = run.records["summary"]
    lengths = np.array(summary["lengths_tokens"]) / 1024
    for curve in summary["last_tokens"]:
        points = [(x, p) for x, p in zip(lengths, curve["points"], strict=True) if p is not None]
        x = [x for x, _ in points]
        axes.plot(x, [p["accuracy"] for _, p in points], marker=".", label=label(curve["last_tokens"]))
        axes.fill_between(x, [p["low"] for _, p in points], [p["high"] for _, p in points], alpha=0.15)
    if run.config.get("train_len_tokens"):
        axes.axvline(run.config["train_len_tokens"] / 1024, color="red", linestyle="--")
    axes.set_xscale("log", base=2)
    axes.set_ylim(-0.05, 1.05)
    axes.set_xlabel("Input Length (K)", fontsize=7)
    axes.set_ylabel("Accuracy", fontsize=7)
    if summary["last_tokens"]:
        axes.legend(title="within the last", fontsize=5, title_fontsize=5)


def save(path: pathlib.Path, run: stuffed_results.Run, panels: list, width: float) -> None:
    figure, axes = plt.subplots(1, len(panels), figsize=(width, 2.2), dpi=300, squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=True):
        panel(axis, run)
    if len(panels) > 1:
        figure.tight_layout()
    unfinished.mark(figure, [run])
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def draw_heat_map(run: stuffed_results.Run, path: pathlib.Path) -> None:
    save(path, run, [heat_map], 2.2)


def draw_curves(run: stuffed_results.Run, path: pathlib.Path) -> None:
    save(path, run, [curves], 3)


def draw_both(run: stuffed_results.Run, path: pathlib.Path) -> None:
    save(path, run, [heat_map, curves], 5.4)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("results", type=pathlib.Path, help="journal of a passkey run")
    parser.add_argument(
        "-o",
        "--output",
        type=stuffed_results.figure_path,
        default=pathlib.Path("."),
        help="folder of the two figures, or one picture of both, such as FIG.png",
    )
    arguments = parser.parse_args()
    with stuffed_results.explained("plot_passkey", arguments.results, arguments.output):
        run = unfinished.so_far(stuffed_results.read(arguments.results, "stuffed.passkey"))
        if arguments.output.suffix and not arguments.output.is_dir():
            draw_both(run, arguments.output)
            return 0
        arguments.output.mkdir(parents=True, exist_ok=True)
        draw_heat_map(run, arguments.output / "heat_map.pdf")
        draw_curves(run, arguments.output / "acc_curve.pdf")
    return 0


if __name__ == "__main__":
    sys.exit(main())
