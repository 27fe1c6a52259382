#!/usr/bin/env python3
"""Draws the results of `stuffed state-stats`; computes no metric.

    scripts/plot/plot_state_stats.py newlines.jsonl -o states.png  mean, variance, RMS of heads; loss below
    scripts/plot/plot_state_stats.py newlines.jsonl -o decay.png --kind decay  retention per token and since the first
    scripts/plot/plot_state_stats.py newlines.jsonl -o alpha.png --kind alpha  mean decay of every head and layer
    scripts/plot/plot_state_stats.py newlines.jsonl -o inputs.pdf --kind inputs  dt, B, C, x (or q, k, v) of a layer
    scripts/plot/plot_state_stats.py newlines.jsonl -o histogram.png --kind histogram  one head, at --histogram-at
    scripts/plot/plot_state_stats.py newlines.jsonl -o map.png --kind map  every layer and head at once
    scripts/plot/plot_state_stats.py newlines.jsonl -o taps.png --kind taps  taps of a layer's convolution, by channel

Without --layer and --heads, the layer of the head that explodes most is drawn, those heads of it first. The training
length is red. Panels over positions share their axis with the loss. --kind alpha --with OTHER.jsonl ...
puts runs of other models beside the first. A run that has not finished is drawn as far as it is, and marked.
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
from look import NO_DATA, plt, size_text  # noqa: E402

MOST_HEADS = 8
PAPER_NAMES = {"q": "C", "k": "B", "v": "x"}  # what Mamba's papers call the inputs


class Data:
    """One document of a run, and which of its layers and heads to draw."""

    def __init__(self, run, arguments):
        self.run = run
        self.arrays = unfinished.arrays(run)
        self.positions = self.arrays["positions"]
        self.layers, self.heads = self.arrays["layers"].tolist(), self.arrays["heads"].tolist()
        self.document = arguments.document
        self.train_len = run.config["train_len_tokens"]
        documents = len(self.arrays["loss.mean_nll"])
        if not 0 <= self.document < documents:
            raise stuffed_results.ResultsError(f"{run.path}: --document {self.document}: there are {documents}")
        exploding = run.summary.get("exploding") or []
        self.layer = arguments.layer
        if self.layer is None:
            self.layer = exploding[0]["layer"] if exploding else self.layers[0]
        first = [row["head"] for row in exploding if row["layer"] == self.layer]
        chosen = arguments.heads or list(dict.fromkeys(first + self.heads))[:MOST_HEADS]
        self.layer_row = self.index(self.layers, self.layer, "layer")
        self.head_columns = {head: self.index(self.heads, head, "head") for head in chosen}

    def index(self, recorded: list, wanted: int, what: str) -> int:
        if wanted not in recorded:
            raise stuffed_results.ResultsError(f"{self.run.path}: {what} {wanted} was not recorded")
        return recorded.index(wanted)

    def get(self, name: str) -> np.ndarray:
        """[S,L,H] or [S,L] of the document."""
        if name not in self.arrays:
            raise stuffed_results.ResultsError(f"{self.run.path}: holds no array '{name}'")
        return self.arrays[name][self.document]

    def of_heads(self, name: str):
        """(head, its values over positions) of every head to draw."""
        array = self.get(name)[:, self.layer_row]
        return [(head, array[:, column]) for head, column in self.head_columns.items()]

    def inputs(self) -> list:
        names = [name.removesuffix(".layer_mean") for name in self.arrays if name.endswith(".layer_mean")]
        return [n for n in ("dt", "k", "q", "v", "erase_read", "erase_write") if n in names]

    def paper_name(self, name: str) -> str:
        is_mamba = self.run.config["model"]["family"].startswith("mamba")
        return PAPER_NAMES.get(name, name) if is_mamba else name


def position_figure(data: Data, labels: list, with_loss: bool, columns: int = 1):
    """Panels [rows, columns] over positions; the last row is the loss, if it is wanted."""
    rows = len(labels) + with_loss
    size = look.size(5.5 * columns, 1.4 + 1.5 * rows)
    figure, panels = plt.subplots(rows, columns, sharex=True, squeeze=False, figsize=size, layout="constrained")
    for row, label in enumerate(labels):
        panels[row, 0].set_ylabel(label)
    step = 2 ** max(0, math.ceil(math.log2(data.positions[-1] / 6)))
    for axes in panels.flat:
        look.train_lengths(axes, [data.train_len])
        look.plain(axes)
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(size_text))
        axes.set_xticks(range(0, int(data.positions[-1]) + 1, step))
    for axes in panels[-1] if with_loss else []:
        axes.plot(data.positions, data.get("loss.mean_nll"), color="black")
    if with_loss:
        panels[-1, 0].set_ylabel("loss (nats)")
    for axes in panels[-1]:
        axes.set_xlabel("position (tokens)")
    return figure, panels


def draw_heads(axes, data: Data, name: str, transform=lambda x: x, **style) -> None:
    for i, (head, values) in enumerate(data.of_heads(name)):
        label = None if "linestyle" in style else f"head {head}"
        axes.plot(data.positions, transform(values), label=label, **look.line(i) | style)


def finish(figure, data: Data, panels, title: str):
    """The legend below the panels; the model in the title."""
    look.legend(figure, panels, most_columns=4)
    figure.suptitle(f"{look.model_name(data.run)}: {title}")
    return figure


def draw_states(data: Data, arguments):
    names = ["mean", "variance", "rms"] + (["rank"] if "state.rank" in data.arrays else [])
    labels = ["mean", "variance", "RMS", "effective rank"][: len(names)]
    figure, panels = position_figure(data, labels, arguments.loss)
    for row, name in enumerate(names):
        draw_heads(panels[row, 0], data, f"state.{name}")
    if not arguments.linear:
        panels[1, 0].set_yscale("log")
        panels[2, 0].set_yscale("log")
    return finish(figure, data, [panels[0, 0]], f"state, layer {data.layer}")


def draw_decay(data: Data, arguments):
    figure, panels = position_figure(data, ["retention\nper token", "retention of\nthe first token"], arguments.loss)
    if "alpha.mean" in data.arrays:  # not in the arrays of older runs
        draw_heads(panels[0, 0], data, "alpha.mean")
        draw_heads(panels[0, 0], data, "log_decay.mean", np.exp, linestyle=":")
        panels[0, 0].set_title("mean of the decay; dotted: exp of the mean logarithm")
    else:
        draw_heads(panels[0, 0], data, "log_decay.mean", np.exp)
    draw_heads(panels[1, 0], data, "log_decay.cumulative", np.exp)
    slowest = [values for _, values in data.of_heads("log_decay.cumulative_slowest")]
    if not np.array_equal(slowest, [values for _, values in data.of_heads("log_decay.cumulative")]):
        draw_heads(panels[1, 0], data, "log_decay.cumulative_slowest", np.exp, linestyle=":")
        panels[1, 0].set_title("dotted: the channel that keeps most")
    panels[1, 0].set_ylim(-0.02, 1.02)
    return finish(figure, data, [panels[0, 0]], f"decay, layer {data.layer}")


def draw_alpha(data: Data, arguments):
    """The mean decay per token, over the whole document: of every head by layer, and the layers' means."""
    figure, axes = plt.subplots(figsize=look.size(5.5, 3.8), layout="constrained")
    runs = [data, *(Data(stuffed_results.read(path, "stuffed.state_stats"), arguments) for path in arguments.others)]
    for i, one in enumerate(runs):
        alpha = one.get("alpha.sequence_mean")
        means = one.run.records[f"document={one.document}"]["alpha_mean_by_layer"]
        label = f"{one.run.path.stem} ({look.model_name(one.run)})" if len(runs) > 1 else "layer's mean"
        axes.plot(np.repeat(one.layers, alpha.shape[1]), alpha.ravel(), ".", color=look.line(i)["color"], alpha=0.3,
                  markersize=4)  # fmt: skip
        axes.plot(one.layers, means, marker="_", label=label, **look.line(i))
    axes.set_xlabel("layer")
    axes.set_ylabel("mean decay per token")
    look.plain(axes)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
    look.legend(figure, [axes], most_columns=1 if len(runs) > 1 else 3)
    axes.set_title(look.title([one.run for one in runs]))
    return figure


def draw_inputs(data: Data, arguments):
    names = data.inputs()
    figure, panels = position_figure(data, [data.paper_name(n) for n in names], arguments.loss, columns=2)
    for row, name in enumerate(names):
        for axes, statistic in zip(panels[row], ("mean", "variance"), strict=True):
            own = [values for _, values in data.of_heads(f"{name}.{statistic}")]
            if not (np.isnan(own).all() or np.array_equal(own, own[:1] * len(own))):  # else there is one for all heads
                draw_heads(axes, data, f"{name}.{statistic}")
            layer = data.get(f"{name}.layer_{statistic}")[:, data.layer_row]
            axes.plot(data.positions, layer, color="black", linewidth=1.6, label="all channels of the layer")
    for axes, statistic in zip(panels[0], ("mean", "variance"), strict=True):
        axes.set_title(f"{statistic} over channels")
    panel = max(panels.flat, key=lambda axes: len(axes.get_legend_handles_labels()[1]))
    return finish(figure, data, [panel], f"inputs of the update, layer {data.layer}")


def draw_histogram(data: Data, _arguments):
    positions = data.arrays.get("histogram.positions")
    if positions is None:
        raise stuffed_results.ResultsError(f"{data.run.path}: was made without --histogram-at")
    head, column = next(iter(data.head_columns.items()))
    counts, edges = data.get("histogram.counts"), data.get("histogram.edges")[data.layer_row, column]
    figure, axes = plt.subplots(figsize=look.size(5, 3.5), layout="constrained")
    for i, position in enumerate(positions):
        axes.stairs(
            counts[i, data.layer_row, column],
            edges,
            color=look.COLOURS[i % len(look.COLOURS)],
            fill=True,
            alpha=0.45,
            label=f"after {size_text(position)}",
        )
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.5)
    axes.set_xlabel("element of the state")
    axes.set_ylabel("elements")
    return finish(figure, data, [axes], f"layer {data.layer}, head {head}")


def draw_map(data: Data, arguments):
    quantity = arguments.quantity or ("variance_ratio" if "variance_ratio" in data.arrays else "state.variance")
    if quantity in ("variance_ratio", "limits"):
        if quantity not in data.arrays:
            raise stuffed_results.ResultsError(f"{data.run.path}: holds no array '{quantity}' (see --train-len)")
        grid, label = data.arrays[quantity], quantity.replace("_", " ")
    else:
        where = -1 if arguments.position is None else int(np.searchsorted(data.positions, arguments.position))
        if where == len(data.positions):
            raise stuffed_results.ResultsError(f"{data.run.path}: no sample at or behind {arguments.position}")
        grid = data.get(quantity)[where]
        if grid.ndim != 2:
            raise stuffed_results.ResultsError(f"{data.run.path}: '{quantity}' has no value per layer and head")
        label = f"{quantity} after {size_text(data.positions[where])}"
    figure, axes = plt.subplots(figsize=look.size(6, 4), layout="constrained")
    shown = np.ma.masked_invalid(grid)
    is_log = shown.count() > 0 and shown.min() > 0 and not arguments.linear
    colours = plt.get_cmap("viridis").with_extremes(bad=NO_DATA)
    norm = matplotlib.colors.LogNorm() if is_log else None
    image = axes.imshow(shown, aspect="auto", interpolation="nearest", cmap=colours, norm=norm)
    figure.colorbar(image, label=label + (", grey: not finite" if shown.mask.any() else ""))
    for axis, values, name in ((axes.xaxis, data.heads, "head"), (axes.yaxis, data.layers, "layer")):
        step = -(-len(values) // 16)
        axis.set_ticks(range(0, len(values), step), [str(v) for v in values[::step]])
        axis.set_label_text(name)
    axes.set_title(look.model_name(data.run))
    return figure


def draw_taps(data: Data, _arguments):
    if "conv.mean" not in data.arrays:
        raise stuffed_results.ResultsError(f"{data.run.path}: the model has no convolution")
    figure, panels = plt.subplots(2, 1, sharex=True, figsize=look.size(6, 3.6), layout="constrained")
    for axes, name in zip(panels, ("mean", "variance"), strict=True):
        axes.plot(data.arrays[f"conv.{name}"][data.layer_row], ".", markersize=3)
        axes.set_ylabel(f"{name} of taps")
        look.plain(axes)
    panels[1].set_yscale("log")
    panels[1].set_xlabel("channel of the convolution")
    figure.suptitle(f"{look.model_name(data.run)}: layer {data.layer}")
    return figure


KINDS = {
    "states": draw_states,
    "decay": draw_decay,
    "alpha": draw_alpha,
    "inputs": draw_inputs,
    "histogram": draw_histogram,
    "map": draw_map,
    "taps": draw_taps,
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results")
    look.add_arguments(parser)
    parser.add_argument("--kind", choices=KINDS, default="states")
    parser.add_argument(
        "--with", dest="others", nargs="+", action="extend", default=[], help="of --kind alpha: other runs' results"
    )
    parser.add_argument("--layer", type=int)
    parser.add_argument("--heads", type=lambda text: [int(h) for h in text.split(",")], help="such as 0,1,7")
    parser.add_argument("--document", type=int, default=0)
    parser.add_argument("--quantity", help="of --kind map: variance_ratio, limits, or an array such as state.rank")
    parser.add_argument("--position", type=int, help="of --kind map, in tokens; default: the last sample")
    parser.add_argument("--linear", action="store_true", help="no logarithmic axis or colours")
    parser.add_argument("--no-loss", dest="loss", action="store_false", help="leave out the panel of the loss")
    arguments = parser.parse_args(argv)
    with stuffed_results.explained("plot_state_stats", arguments.results, arguments.output):
        run = unfinished.so_far(stuffed_results.read(arguments.results, "stuffed.state_stats"))
        look.use(arguments.style)
        figure = KINDS[arguments.kind](Data(run, arguments), arguments)
        unfinished.mark(figure, [run])
        look.save(figure, arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
