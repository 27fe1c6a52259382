"""Does the script that guards the layers see a violation, and let the allowed directions pass?"""
import importlib.util
import pathlib

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
