"""What all pictures share: how runs are told apart, training lengths, the legend, and which files are written.

look.use(arguments.style); figure, axes = plt.subplots(figsize=look.size(6, 3.6))
axes.plot(x, y, **look.line(0), label="a run"); look.legend(figure, [axes]); look.save(figure, path)
"""

from __future__ import annotations

import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from stuffed_results import ResultsError, Run, figure_path

# Okabe and Ito's colours, which those who are colour-blind tell apart, without the yellow, which is too pale on white.
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#444444", "#56b4e9"]
DASHES = ["-", (0, (6, 2)), (0, (1.5, 1.5)), (0, (8, 2, 1.5, 2))]
RULE = "#a3121f"  # of training lengths: no run has it
RULE_DASHES = [(0, (4, 3)), (0, (1, 2)), (0, (8, 2, 1, 2)), (0, (2, 1))]
NO_DATA = "0.8"  # grey
COLUMN_INCHES = 3.3  # of a paper of two columns


def add_arguments(parser) -> None:
    """-o and --style."""
    parser.add_argument(
        "-o", "--output", required=True, type=figure_path, help="FIG.png or FIG.pdf; without a suffix both are written"
    )
    add_style(parser)


def add_style(parser) -> None:
    parser.add_argument(
        "--style", choices=["screen", "paper"], default="screen", help="paper: as wide as a column, with small print"
    )


def use(style: str) -> None:
    """Sets the size of print and lines for all pictures that are drawn from now on."""
    small = {"font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "legend.fontsize": 6, "xtick.labelsize": 6,
             "ytick.labelsize": 6, "lines.linewidth": 1.0, "figure.titlesize": 7, "axes.linewidth": 0.6}  # fmt: skip
    large = {"font.size": 9, "axes.titlesize": 9, "legend.fontsize": 8, "lines.linewidth": 1.4, "figure.titlesize": 10}
    matplotlib.rcParams.update(small if style == "paper" else large)
    matplotlib.rcParams["savefig.dpi"] = 300 if style == "paper" else 160


def is_paper() -> bool:
    return matplotlib.rcParams["font.size"] < 8


def size(width: float, height: float) -> tuple[float, float]:
    """Inches: as given, or in a column's width with less height lost than width."""
    if not is_paper():
        return width, height
    return COLUMN_INCHES, max(1.8, height * (COLUMN_INCHES / width) ** 0.6)


def grid_shape(panels: int, columns: int) -> tuple[int, int]:
    """Rows and columns of panels side by side; in a column they stand below one another."""
    columns = 1 if is_paper() else min(columns, panels)
    return -(-panels // columns), columns


def line(i: int) -> dict:
    """Colour and dashes of run i; no two of the first 28 are alike."""
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i % len(DASHES)]}


def size_text(tokens: float, _=None) -> str:
    for unit, scale in (("M", 1 << 20), ("K", 1 << 10)):
        if tokens >= scale:
            return f"{tokens / scale:.3g}{unit}"
    return f"{tokens:.3g}"


def model_name(run: Run) -> str:
    """The folder that the model was in, or its family and the beginning of its hash."""
    path = run.provenance.get("model")
    model = run.config.get("model")
    if isinstance(path, str) and path.strip("/"):
        return pathlib.PurePath(path).name
    if isinstance(model, dict) and "sha256" in model:
        return f"{model.get('family', 'model')} {model['sha256'][:8]}"
    return str(run.config.get("family", "model"))


def title(runs: list[Run]) -> str:
    names = list(dict.fromkeys(model_name(run) for run in runs))
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} models"


def tokens_axis(axes, label: str, log: bool = True, longest: float = 0) -> None:
    """Positions or lengths; 2, 4, 8, ... or, linear, steps of a power of two up to `longest`."""
    if log:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(matplotlib.ticker.LogLocator(base=2, numticks=6 if is_paper() else 12))
        axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    elif longest:
        step = 2 ** max(0, int(np.ceil(np.log2(longest / 6))))
        axes.set_xlim(-0.01 * longest, 1.01 * longest)
        axes.set_xticks(range(0, int(longest) + 1, step))
    axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(size_text))
    axes.set_xlabel(label)


def plain(axes) -> None:
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def y_axis(axes, log: bool = False, top: float | None = None) -> None:
    """From 0, or rather a little below, so that no line lies under the axis. Bands do not decide it."""
    if log:
        axes.set_yscale("log")
    values = np.concatenate([np.asarray(one.get_ydata(), dtype=float) for one in axes.lines if _is_data(one)] or [[]])
    values = values[np.isfinite(values) & (values > 0 if log else True)]
    if len(values) == 0:
        return
    low, high = values.min(), top or values.max()
    if log:
        room = (high / low) ** 0.05 or 1
        axes.set_ylim(low / max(room, 1.05), high * max(room, 1.05))
    else:
        low = 0 if 0 <= low else low
        room = 0.04 * (high - low or 1)
        axes.set_ylim(low - room, high + (0 if top else room))


def _is_data(one) -> bool:
    return not str(one.get_gid()).startswith("rule")


def student(documents: int) -> float:
    """Half of a mean's 95 % interval in standard errors over documents, by Student's t; NaN for a single one."""
    if documents < 2:
        return math.nan
    low, high = 1.9, 13.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _share_within(middle, documents - 1) < 0.95 else (low, middle)
    return high


def _share_within(t: float, degrees: int) -> float:
    """P(|T| < t): a finite series in the angle of tangent t / sqrt(degrees) (Abramowitz and Stegun 26.7.3 and 4)."""
    angle = math.atan(t / math.sqrt(degrees))
    odd, total = degrees % 2, 0.0
    term = math.cos(angle) if odd else 1.0
    for k in range(1, degrees // 2 + 1):
        total += term
        term *= math.cos(angle) ** 2 * (2 * k - 1 + odd) / (2 * k + odd)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def train_lengths(axes, lengths) -> None:
    """A line for each, told apart by their dashes and named in the legend."""
    for i, length in enumerate(sorted(set(lengths) - {None, 0})):
        axes.axvline(length, color=RULE, linestyle=RULE_DASHES[i % len(RULE_DASHES)], linewidth=1.1, gid=f"rule {i}",
                     label=f"training length {size_text(length)}")  # fmt: skip


def legend(figure, panels, most_columns: int = 3) -> None:
    """One for all panels, below them: what has one name and looks alike is there once."""
    found = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        for handle, name in zip(handles, labels, strict=True):
            looks = [getattr(handle, f"get_{what}", str)() for what in ("color", "linestyle")]
            found.setdefault((name, *map(str, looks)), handle)
    if not found:
        return
    names = [name for name, *_ in found]
    fitting = int(figure.get_size_inches()[0] * 13) // (max(map(len, names)) + 8)
    columns = max(1, min(len(names), most_columns, fitting))
    figure.legend(found.values(), names, loc="outside lower center", ncols=columns, frameon=False, handlelength=3)


def save(figure, path: pathlib.Path) -> None:
    """The picture that `path` names; without a suffix FIG.png and FIG.pdf."""
    if path.is_dir():
        raise ResultsError(f"{path}: is a folder; name a picture")
    for file in [path] if path.suffix else [path.with_name(path.name + end) for end in (".png", ".pdf")]:
        figure.savefig(file)
    plt.close(figure)
