"""scripts/check_published: its arithmetic against `stuffed inspect` on the goldens, and its verdicts."""

import importlib.machinery
import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
from cli_support import GOLDEN, ROOT, needs_binary, stuffed

SCRIPT = ROOT / "scripts" / "check_published"


@pytest.fixture(scope="module")
def script():
    loader = importlib.machinery.SourceFileLoader("check_published", str(SCRIPT))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("check_published", loader))
    sys.modules["check_published"] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


def check(folder, *more):
    return subprocess.run([sys.executable, SCRIPT, folder, *more], capture_output=True, text=True, check=False)


@needs_binary
@pytest.mark.parametrize(
    ("golden", "arguments", "extra"),
    [
        ("mamba2-hf", (64, 3, 320), {"head": 16, "n": 16}),
        ("mamba2-original", (64, 3, 320), {"head": 16, "n": 32, "groups": 2}),
        ("mamba1-hf", (64, 3, 320), {}),
        ("rwkv5-hf", (128, 3, 320), {}),
        ("rwkv6-fla", (128, 3, 320), {"mix": 8, "decay": 16}),
        ("hgrn2-fla", (128, 3, 320), {"expand": 32, "mlp": 512}),
    ],
)
def test_parameters_and_states_follow_from_the_dimensions(script, golden, arguments, extra):
    row = script.Published("x/y", golden.split("-")[0], golden.split("-")[1], "", *arguments, extra)
    found = json.loads(stuffed("inspect", GOLDEN / golden, "--json").stdout)
    assert row.parameters() == found["parameters"]
    assert row.state() == (found["state"]["recurrence_elements"], found["state"]["with_columns_elements"])
    assert script.check_figures(row, found) == []


def test_figures_that_are_known_from_elsewhere(script):
    rows = {row.name.split("/")[1]: row for row in script.checkpoints()}
    # State elements as the paper and the RWKV sizes have them; parameters by the files' published bytes.
    assert rows["mamba2-370m"].state() == (12_582_912, 12_914_688)
    assert rows["mamba2-2.7b"].state() == (41_943_040, 42_975_232)
    assert rows["rwkv-5-world-1b5"].state() == (3_145_728, 3_244_032)
    assert rows["v6-Finch-14B-HF"].state() == (15_990_784, 16_490_496)
    assert rows["hgrn2-1.3B-100B"].state()[0] == 6_291_456
    assert abs(2 * rows["mamba2-130m"].parameters() / 258e6 - 1) < 0.01
    assert abs(2 * rows["mamba2-2.7b"].parameters() / 5.41e9 - 1) < 0.01
    assert abs(4 * rows["mamba-130m"].parameters() / 516_618_642 - 1) < 0.001
    assert abs(2 * rows["RWKV-5-World-1B5-v2-20231025-ctx4096.pth"].parameters() / 3.16e9 - 1) < 0.01
    assert abs(2 * rows["RWKV-x060-World-3B-v2.1-20240417-ctx4096.pth"].parameters() / 6.2e9 - 1) < 0.01
    assert abs(2 * rows["RWKV-x060-World-7B-v2.1-20240507-ctx4096.pth"].parameters() / 15.3e9 - 1) < 0.01
    assert abs(2 * rows["RWKV-x060-World-14B-v2.1-20240719-ctx4096.pth"].parameters() / 28.1e9 - 1) < 0.01
    assert abs(2 * rows["hgrn2-1.3B-100B"].parameters() / 2.73e9 - 1) < 0.01


def test_the_page_holds_the_scripts_table(script):
    assert script.markdown() in (ROOT / "configs" / "published.md").read_text()


def test_an_empty_folder_is_all_absent(tmp_path):
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("absent ") for line in lines[:-1]) and len(lines) > 40
    assert lines[-1] == f"0 pass, 0 fail, {len(lines) - 1} absent"


def test_no_folder_is_wrong_usage(tmp_path):
    assert check(tmp_path / "absent").returncode == 2


@needs_binary
def test_another_model_under_a_published_name_fails(tmp_path):
    shutil.copytree(GOLDEN / "mamba2-original", tmp_path / "mamba2-130m")
    shutil.copytree(GOLDEN / "rwkv6-fla", tmp_path / "fla-hub" / "rwkv6-1.6B-finch")
    (tmp_path / "hgrn2-1.3B-100B").mkdir()
    done = check(tmp_path)
    assert done.returncode == 1
    failed = [line for line in done.stdout.splitlines() if line.startswith("fail ")]
    assert len(failed) == 3
    assert "state-spaces/mamba2-130m" in failed[0] and "parameters, expected 128,989,632" in failed[0]
    assert "rwkv6-1.6B-finch" in failed[1] and "state of" in failed[1]
    assert "model.safetensors" in failed[2], "the reader's own message"


@needs_binary
def test_a_model_that_only_guesses_fails_by_its_loss(script, tmp_path, monkeypatch):
    # Sizes that fit, weights that are random: only the loss can tell.
    folder = tmp_path / "mamba2-hf"
    shutil.copytree(GOLDEN / "mamba2-hf", folder)
    (folder / "stuffed_tokenizer.json").write_text('{"tokenizer": "bytes"}')
    row = script.Published("x/mamba2-hf", "mamba2", "hf", "", 64, 3, 320, {"head": 16, "n": 16})
    monkeypatch.setattr(script, "checkpoints", lambda: [row])
    monkeypatch.setattr(sys, "argv", ["check_published", str(tmp_path)])
    assert script.main() == 1
    monkeypatch.setattr(script, "PLAIN_BOUND_NATS", 100.0)
    assert script.main() == 0
    # And a published perplexity that is another one.
    text = tmp_path / "text"
    text.write_text("abcdefgh" * 1024)
    monkeypatch.setattr(sys, "argv", ["check_published", str(tmp_path), "--text", str(text)])
    row.perplexity = (1.0, 0.1)
    assert script.main() == 1
    row.perplexity = (1.0, 1e9)
    assert script.main() == 0


def test_a_python_without_the_packages_is_changed_for_the_checkouts(tmp_path):
    if not (ROOT / ".venv" / "bin" / "python").exists():
        pytest.skip("no .venv in this checkout")
    # -S: no packages. A Python that began itself anew over and over would not end.
    done = subprocess.run([sys.executable, "-S", SCRIPT, tmp_path], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "absent" in done.stdout and "cannot be imported" not in done.stderr, done


def test_a_binary_that_is_not_there_is_said_once(tmp_path):
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path], env={"STUFFED": str(tmp_path / "none")}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "scripts/setup" in done.stderr and "Traceback" not in done.stderr


@needs_binary
def test_recipes_of_retrieval_are_asked_and_their_scores_told(script):
    told = script.ask_tasks(ROOT / "tests" / "models" / "mamba2-short")
    assert [line.split()[0] for line in told] == ["niah_multikey", "niah_multiquery", "niah_multivalue", "niah_single"]
    assert all(0 <= float(line.split()[1]) <= 1 for line in told)
    with pytest.raises(RuntimeError, match="tokenizer"):
        script.ask_tasks(GOLDEN / "mamba2-hf")
