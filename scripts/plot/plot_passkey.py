#!/usr/bin/env python3
"""Draws a passkey or retrieval run: accuracy over length and depth, and for needles within the last tokens.

    scripts/plot/plot_passkey.py passkey.jsonl -o figures
    scripts/plot/plot_passkey.py multikey.jsonl -o multikey.png
    scripts/plot/plot_passkey.py passkey.jsonl -o passkey.png --colours paper

Writes heat_map and acc_curve, each .png and .pdf, into a folder, or both side by side into one picture. A cell is
drawn where its needles are, which is not quite the depth asked for: a needle replaces a whole block of filler. Cells
without a trial are grey, so that they are not taken for zero. --colours paper is the red and green of arXiv:2410.07145,
which not everyone can tell apart. Of `retrieval --task jsonl`, whose answers have no known place, accuracy is drawn
over length. A run that has not finished is drawn as far as it is, and marked.
"""

from __future__ import annotations

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import look  # noqa: E402
import matplotlib  # noqa: E402
import stuffed_results  # noqa: E402
import unfinished  # noqa: E402
from look import plt  # noqa: E402

# Colour map, and the values at its ends: the paper's pales at 0 and 1.
COLOURS = {"safe": ("viridis", 0.0, 1.0), "paper": ("RdYlGn", -0.2, 1.2)}


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
    """Where the needles of each cell are, 0 to 1: [depths, lengths]; NaN where there is no trial. Of passkeys from the
    trials' blocks, which journals of every age hold."""
    lengths = run.records["summary"]["lengths_tokens"]
    places = [[[] for _ in lengths] for _ in range(run.config["depths"])]
    for record in run.records.values():
        if "trial" in record:
            place = (
                record["position_blocks"] / max(1, record["blocks"] - 1)
                if "position_blocks" in record
                else record["real_depth"]
            )
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


def heat_map(axes, run: stuffed_results.Run, colours: str) -> None:
    lengths, grid = accuracy_grid(run)
    depths = real_depths(run)
    name, low, high = COLOURS[colours]
    scale = matplotlib.cm.ScalarMappable(
        matplotlib.colors.Normalize(low, high), matplotlib.colormaps[name].with_extremes(bad=look.NO_DATA)
    )
    for i in range(len(lengths)):
        edges, values = column(depths[:, i], grid[:, i])
        axes.pcolormesh([i - 0.5, i + 0.5], edges, values[:, None], cmap=scale.cmap, norm=scale.norm)
    axes.set_ylim(1, 0)
    longest = max(lengths)
    ticks = [i for i, n in enumerate(lengths) if n == longest or (n & (n - 1)) == 0]
    ticks = ticks[-8:] if len(ticks) > 8 else ticks
    axes.set_xticks(ticks, [look.size_text(lengths[i]) for i in ticks], rotation=45)
    axes.set_yticks([0, 0.5, 1], ["0", "50", "100"])
    axes.set_xlabel("length (tokens)")
    axes.set_ylabel("depth of the needle (%)")
    axes.set_title(title(run))
    bar = axes.figure.colorbar(scale, ax=axes, label="accuracy", pad=0.02)
    bar.ax.set_ylim(0, 1)


def title(run: stuffed_results.Run) -> str:
    task = run.config.get("task")
    return f"{look.model_name(run)}, {task}" if task else look.model_name(run)


def has_places(run: stuffed_results.Run) -> bool:
    return run.config.get("task") != "jsonl"


def lines(run: stuffed_results.Run) -> list[tuple[str, list]]:
    """Names, and a point per length: of needles within the last tokens, or of all where they have no place."""
    summary = run.records["summary"]
    if has_places(run):
        return [
            (f"within the last {look.size_text(curve['last_tokens'])}", curve["points"])
            for curve in summary["last_tokens"]
        ]
    cells = [run.records[f"summary/len={length}"]["depths"] for length in summary["lengths_tokens"]]
    return [("all samples", [depths[0] for depths in cells])]


def curves(axes, run: stuffed_results.Run, _colours: str) -> None:
    lengths = run.records["summary"]["lengths_tokens"]
    for i, (name, of_lengths) in enumerate(lines(run)):
        points = [(x, p) for x, p in zip(lengths, of_lengths, strict=True) if p is not None]
        x = [x for x, _ in points]
        axes.plot(x, [p["accuracy"] for _, p in points], marker=".", label=name, **look.line(i))
        low, high = [p["low"] for _, p in points], [p["high"] for _, p in points]
        axes.fill_between(x, low, high, color=look.line(i)["color"], alpha=0.12, linewidth=0)
    look.train_lengths(axes, [run.config.get("train_len_tokens")])
    look.tokens_axis(axes, "length (tokens)")
    axes.set_ylim(-0.05, 1.05)
    axes.set_ylabel("accuracy")
    axes.set_title(title(run))
    look.plain(axes)


def save(path: pathlib.Path, run: stuffed_results.Run, panels: list, width: float, colours: str = "safe") -> None:
    rows, columns = look.grid_shape(len(panels), 2)
    size = look.size(width, 3.2 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, panel in zip(axes.flat, panels, strict=True):
        panel(axis, run, colours)
    look.legend(figure, axes.flat, most_columns=2)
    unfinished.mark(figure, [run])
    look.save(figure, path)


def draw_heat_map(run: stuffed_results.Run, path: pathlib.Path, colours: str = "safe") -> None:
    save(path, run, [heat_map], 4.2, colours)


def draw_curves(run: stuffed_results.Run, path: pathlib.Path) -> None:
    save(path, run, [curves], 4.2)


def draw_both(run: stuffed_results.Run, path: pathlib.Path, colours: str = "safe") -> None:
    if not has_places(run):
        return draw_curves(run, path)
    save(path, run, [heat_map, curves], 8.4, colours)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=pathlib.Path, help="journal of a passkey or retrieval run")
    parser.add_argument(
        "-o",
        "--output",
        type=stuffed_results.figure_path,
        default=pathlib.Path("."),
        help="folder of the two figures, or one picture of both, such as FIG.png",
    )
    parser.add_argument("--colours", choices=COLOURS, default="safe", help="of the heat map; paper: red and green")
    look.add_style(parser)
    arguments = parser.parse_args(argv)
    with stuffed_results.explained("plot_passkey", arguments.results, arguments.output):
        look.use(arguments.style)
        run = unfinished.so_far(stuffed_results.read(arguments.results, "stuffed.passkey", "stuffed.retrieval"))
        if arguments.output.suffix and not arguments.output.is_dir():
            draw_both(run, arguments.output, arguments.colours)
            return 0
        arguments.output.mkdir(parents=True, exist_ok=True)
        if has_places(run):
            draw_heat_map(run, arguments.output / "heat_map", arguments.colours)
        draw_curves(run, arguments.output / "acc_curve")
    return 0


if __name__ == "__main__":
    sys.exit(main())
