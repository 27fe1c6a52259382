"""Does the script that guards the layers see a violation, and let the allowed directions pass?"""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def load_script():
    spec = importlib.util.spec_from_file_location("check_layers", ROOT / "scripts/check_layers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_arrows_lead_down_and_never_up():
    reachable = load_script().reachable
    assert "core" in reachable("cli") and "kernels" in reachable("eval")
    assert "models" not in reachable("io") and "eval" not in reachable("models")
    assert "train" not in reachable("eval")


def test_layer_is_read_off_the_path():
    layer_of = load_script().layer_of
    assert layer_of(pathlib.PurePath("src/eval/stream.cpp")) == "eval"
    assert layer_of(pathlib.PurePath("include/stuffed/io/json.h")) == "io"
    assert layer_of(pathlib.PurePath("kernels/decay_scan/decay_scan.h")) == "kernels"
    assert layer_of(pathlib.PurePath("src/main.cpp")) is None


@pytest.mark.parametrize(
    ("path", "include"),
    [
        ("src/io/a.cpp", '"stuffed/eval/stream.h"'),
        ("src/io/a.cpp", "<stuffed/eval/stream.h>"),
        ("src/io/a.cpp", '"src/eval/documents.h"'),
        ("src/io/a.cpp", '"../eval/documents.h"'),
        ("src/io/a.cpp", '"../../src/eval/documents.h"'),
        ("include/stuffed/core/a.h", '"../io/json.h"'),
        ("kernels/decay_scan/a.cu", '"stuffed/ops/decay_scan.h"'),
        ("src/models/a.inc", '"src/cli/app.h"'),
        ("src/eval/a.cpp", '"stuffed/train/trainer.h"'),
        ("src/core/a.cpp", '"tests/support/files.h"'),
        ("src/nosuch/a.cpp", "<vector>"),
    ],
)
def test_a_tree_that_violates_is_refused(tmp_path, capsys, path, include):
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(f"// A layer.\n#include {include}\n")
    assert load_script().main(tmp_path) == 1
    assert path in capsys.readouterr().out


def test_a_tree_that_keeps_to_the_arrows_passes(tmp_path):
    for path, include in {
        "src/cli/a.cpp": '"../eval/documents.h"',
        "src/eval/b.cpp": '"documents.h"',
        "src/io/c.cpp": "<eval/foreign.h>",
        "src/io/d_test.cpp": '"stuffed/eval/stream.h"',
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#include {include}\n")
    assert load_script().main(tmp_path) == 0


def test_this_tree_keeps_to_the_arrows(capsys):
    assert load_script().main(ROOT) == 0, capsys.readouterr().out
