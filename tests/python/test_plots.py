"""What the plot scripts draw: lines that are seen and told apart, legends beside them, names, files."""

import json
import math
import pathlib
import sys

import look
import matplotlib.colors
import numpy as np
import plot_fit
import plot_passkey
import plot_ppl_by_length
import plot_training
import pytest
from cli_support import GOLDEN
from look import plt

RESULTS = GOLDEN / "results"


@pytest.fixture
def drawn(monkeypatch):
    """Runs a script's main() and gives the figure that it would save."""

    def draw(module, *arguments):
        figures = []
        monkeypatch.setattr(look, "save", lambda figure, path: figures.append(figure))
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        assert module.main() == 0
        return figures[0]

    yield draw
    plt.close("all")


def runs(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
    """Losses of several models, trained at 64 and at 128, one of them near 0."""
    paths = []
    for i in range(count):
        lines = [json.loads(line) for line in (RESULTS / "ppl_by_length.v1.jsonl").read_text().splitlines()]
        lines[0]["config"]["train_len_tokens"] = 64 * (1 + i % 2)
        lines[0]["provenance"]["model"] = f"models/model{i}"
        summary = lines[4]
        summary["mean_nll_nats"] = [1e-4 + i * mean / count for mean in summary["mean_nll_nats"]]
        paths.append(folder / f"run{i}.jsonl")
        paths[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    return paths


def data_lines(axes) -> list:
    return [line for line in axes.lines if not str(line.get_gid()).startswith("rule")]


def test_no_two_of_many_runs_look_alike():
    looks = [look.line(i) for i in range(28)]
    assert len({(one["color"], str(one["linestyle"])) for one in looks}) == 28
    red = np.array(matplotlib.colors.to_rgb(look.RULE))
    assert all(np.abs(np.array(matplotlib.colors.to_rgb(c)) - red).max() > 0.2 for c in look.COLOURS)


def test_intervals_are_students():
    for documents, quantile in ((2, 12.7062047), (3, 4.3026527), (4, 3.1824463), (10, 2.2621572), (101, 1.9839715)):
        assert look.student(documents) == pytest.approx(quantile, rel=1e-7)
    assert math.isnan(look.student(1))


@pytest.mark.parametrize("more", [[], ["--log-y"], ["--perplexity"], ["--linear-x"], ["--style", "paper"]])
def test_every_line_is_above_the_axis_and_no_legend_is_on_it(more, drawn, tmp_path):
    figure = drawn(plot_ppl_by_length, *runs(tmp_path, 8), "-o", tmp_path / "x.png", *more)
    (axes,) = figure.axes
    figure.canvas.draw()
    assert axes.get_xscale() == ("linear" if "--linear-x" in more else "log")
    assert axes.get_yscale() == ("log" if "--log-y" in more else "linear")
    low, high = axes.get_ylim()
    values = np.concatenate([line.get_ydata() for line in data_lines(axes)])
    assert len(data_lines(axes)) == 8 and low < values.min() and values.max() < high
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [*(f"run{i}" for i in range(8)), "training length 64", "training length 128"]
    assert legend.get_window_extent().y1 <= axes.get_tightbbox().y0 + 1
    rules = [line for line in axes.lines if str(line.get_gid()).startswith("rule")]
    assert len({str(line._unscaled_dash_pattern) for line in rules}) == 2
    width = figure.get_size_inches()[0]
    assert width == (look.COLUMN_INCHES if "paper" in more else 6)


def test_titles_name_the_models(drawn, tmp_path):
    paths = runs(tmp_path, 4)
    for count, title in ((1, "model0"), (2, "model0, model1"), (4, "4 models")):
        figure = drawn(plot_ppl_by_length, *paths[:count], "-o", tmp_path / "x.png")
        assert figure.axes[0].get_title() == title
    figure = drawn(plot_ppl_by_length, RESULTS / "ppl_by_length.v1.jsonl", "-o", tmp_path / "x.png")
    assert figure.axes[0].get_title() == "mamba2 b1398a9a"


@pytest.mark.parametrize(("colours", "name"), [("safe", "viridis"), ("paper", "RdYlGn")])
def test_passkeys_have_a_colour_bar_from_0_to_1_in_either_map(colours, name, drawn, tmp_path):
    figure = drawn(plot_passkey, RESULTS / "passkey.v1.jsonl", "-o", tmp_path / "x.png", "--colours", colours)
    heat_map, curves, bar = figure.axes
    assert heat_map.collections[0].get_cmap().name == name
    assert bar.get_ylim() == (0, 1) and bar.get_ylabel() == "accuracy"
    assert heat_map.get_title() == curves.get_title() == "mamba2 b1398a9a"


def test_validations_have_a_colour_bar_of_steps(drawn, tmp_path):
    lines = [json.loads(line) for line in (RESULTS / "train.v1.jsonl").read_text().splitlines()]
    for line in lines:
        if line.get("key", "").startswith("validation/"):
            line.update(by_position_nats=[3.0, line["within_length_nats"], 1e-5], position_ends=[64, 128, 256])
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    figure = drawn(plot_training, tmp_path / "train.jsonl", "-o", tmp_path / "x.png", "--log-y")
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert set(panels) == {"mamba2", "text", "repeat"}
    for source in ("text", "repeat"):
        assert len(data_lines(panels[source])) == 5 and panels[source].get_ylim()[0] < 1e-5
    assert [axes.get_ylabel() for axes in figure.axes].count("step") == 2


@pytest.mark.parametrize(("name", "files"), [("both", ["both.pdf", "both.png"]), ("one.pdf", ["one.pdf"])])
def test_a_name_without_a_suffix_is_both_pictures(name, files, tmp_path):
    look.save(plt.figure(), tmp_path / name)
    assert sorted(file.name for file in tmp_path.iterdir()) == files


def test_a_fit_has_its_points_its_band_and_the_papers_curve(drawn, tmp_path):
    figure = drawn(plot_fit, RESULTS / "fit.v1.jsonl", "-o", tmp_path / "x.png")
    lines = [json.loads(line) for line in (RESULTS / "fit.v1.jsonl").read_text().splitlines()]
    points = [line for line in lines if line.get("key", "").startswith("point/")]
    axes = figure.axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    shown = [(*dot.get_xdata(), *dot.get_ydata()) for dot in dots]
    assert shown == [(p["state_elements"], p["tokens"]) for p in points]
    hollow = [dot.get_markerfacecolor() == "white" for dot in dots]
    assert hollow == [p["censored"] != "no" for p in points] and any(hollow)
    curve = next(line for line in lines if line.get("key") == "summary")["curve"]
    assert list(axes.lines[0].get_ydata()) == curve["tokens"] and len(axes.collections) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["fit.v1", "the paper's"]
