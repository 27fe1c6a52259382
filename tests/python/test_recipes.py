"""Every recipe in configs/paper runs end to end, shrunk, on a tiny checkpoint of its own family and layout."""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
RECIPES = sorted((ROOT / "configs" / "paper").glob("*.toml"))
CHECKPOINT = re.compile(r"state-spaces/mamba2?-|RWKV/(rwkv-5-world|v6-Finch)|fla-hub/hgrn2-")
# What a family is published as.
GOLDEN = {
    "mamba2": "mamba2-original",
    "mamba1": "mamba1-original",
    "rwkv5": "rwkv5-pth",
    "rwkv6": "rwkv6-hf",
    "hgrn2": "hgrn2-fla",
}
SHRUNK = {
    "passkey": ["--lengths", "512,1K", "--depths", "2", "--trials", "1"],
    "ppl-by-length": ["--length", "1K", "--bucket", "64", "--train-len", "256", "--segment", "256"],
    "state-stats": ["--length", "1K", "--train-len", "512"],
    "retention": ["--length", "512", "--at", "128,512"],
    "inspect": [],
}
# The tiny models have 3 layers of 2 to 128 heads, and read less than the windows of the paper are long.
MORE = {
    "states_mamba2_370m": ["--layers", "2", "--heads", "0..3:1", "--histogram-at", "128,384"],
    "mitigation_sliding_window": ["--mitigation", "sliding_window:tokens=100"],
}

pytestmark = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


def written_command(recipe: pathlib.Path) -> list[str]:
    first = recipe.read_text().splitlines()[0]
    assert first.startswith("# stuffed "), first
    return shlex.split(first.removeprefix("# stuffed "))


def golden(recipe: pathlib.Path) -> pathlib.Path:
    family = next((family for family in GOLDEN if family in recipe.stem), "mamba2")
    folder = ROOT / "tests" / "golden" / GOLDEN[family]
    return folder / "model.pth" if family == "rwkv5" else folder


def run_recipe(recipe: pathlib.Path, folder: pathlib.Path) -> subprocess.CompletedProcess:
    """The command in the recipe's first line, its placeholders filled in, shrunk by flags."""
    (folder / "BOOKS.jsonl").write_text(json.dumps({"text": "A line of a book.\n" * 100}) + "\n")
    (folder / "CALIBRATION.txt").write_text("A line of ordinary text.\n" * 100)
    places = {"DIR": golden(recipe), "FILE.pth": golden(recipe), f"configs/paper/{recipe.name}": recipe}
    arguments = [str(places.get(argument, argument)) for argument in written_command(recipe)]
    if "--tokenizer" in arguments:
        at = arguments.index("--tokenizer")
        del arguments[at : at + 2]
    command = arguments[0]
    run_anywhere = [] if command == "inspect" else ["--tokenizer", "bytes", "--device", "cpu"]
    return subprocess.run(
        [STUFFED, *arguments, *run_anywhere, *SHRUNK[command], *MORE.get(recipe.stem, [])],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def read_journal(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_a_recipe_says_how_it_is_run_on_what_and_which_figure_it_is(recipe):
    text = recipe.read_text()
    command = written_command(recipe)
    assert command[0] in SHRUNK
    assert command[command.index("--config") + 1] == f"configs/paper/{recipe.name}"
    assert "arXiv:2410.07145" in text
    assert CHECKPOINT.search(text), "names no published checkpoint"


@pytest.mark.parametrize("recipe", [r for r in RECIPES if "state_norm" not in r.stem], ids=lambda recipe: recipe.stem)
def test_a_recipe_runs_end_to_end(recipe, tmp_path):
    done = run_recipe(recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    command = written_command(recipe)[0]
    if command == "inspect":
        state = json.loads(done.stdout)["state"]
        assert state["with_columns_elements"] > state["recurrence_elements"] > 0
        return
    header, *records, end = read_journal(tmp_path / "OUT.jsonl")
    assert end["end"] and end["records"] == len(records)
    assert header["schema"] == "stuffed." + command.replace("-", "_")
    config = header["config"]
    if command == "passkey":
        trials = [record["length_tokens"] for record in records if "passkey" in record]
        assert sorted(trials) == [512, 512, 1024, 1024]
        assert config["protocol"] == ("paper-text" if "appendix_b" in recipe.stem else "paper-code")
        assert config["protocol"] in recipe.read_text() and config["grid"] == "per-length"
    else:
        assert records[-1]["key"] == "summary" and records[-1]["finite"]
    if "mitigation" in recipe.stem:
        assert config["mitigations"] and config["mitigations"][0].split(":")[0] in recipe.read_text()
    if command in ("retention", "state-stats"):
        assert (tmp_path / "OUT.safetensors").stat().st_size > 0


def test_state_normalisation_takes_the_limits_its_other_half_has_written(tmp_path):
    limits, clamped = (ROOT / "configs" / "paper" / f"mitigation_state_norm{part}.toml" for part in ("_limits", ""))
    missing = run_recipe(clamped, tmp_path)
    assert missing.returncode == 3 and "limits.safetensors" in missing.stderr
    for recipe in (limits, clamped):
        done = run_recipe(recipe, tmp_path)
        assert done.returncode == 0, done.stderr
    assert read_journal(tmp_path / "OUT.jsonl")[0]["config"]["mitigations"] == [
        "clamp_norm:limits=limits.safetensors,multiplier=2,every=128"
    ]


def test_a_flag_wins_over_a_recipe_and_what_it_leaves_alone_stays(tmp_path):
    recipe = ROOT / "configs" / "paper" / "figure1_mamba2_130m.toml"
    done = run_recipe(recipe, tmp_path)
    assert done.returncode == 0, done.stderr
    config = read_journal(tmp_path / "OUT.jsonl")[0]["config"]
    assert config["bucket_tokens"] == 64 and config["data"]["length_tokens"] == 1024
    assert config["data"]["short"] == "skip"  # the recipe's


def test_an_unknown_key_in_a_recipe_is_exit_code_2(tmp_path):
    recipe = tmp_path / "newlines_mamba2_370m.toml"
    shutil.copy(ROOT / "configs" / "paper" / recipe.name, recipe)
    recipe.write_text(recipe.read_text() + "bukcet = 3\n")
    done = run_recipe(recipe, tmp_path)
    assert done.returncode == 2 and "bukcet" in done.stderr


RETRIEVAL = sorted((ROOT / "configs" / "retrieval").glob("*.toml"))
FORMS = {
    "ruler": {"input": "The key is 1.", "outputs": ["1"], "length": 64},
    "babilong": {"input": "Mary is here.", "question": "Where is Mary?", "target": "here"},
}


@pytest.mark.parametrize("recipe", RETRIEVAL, ids=lambda recipe: recipe.stem)
def test_a_recipe_of_retrieval_runs_end_to_end(recipe, tmp_path):
    command = written_command(recipe)
    assert command[:3] == ["retrieval", "--config", f"configs/retrieval/{recipe.name}"]
    assert "arXiv" in recipe.read_text() or recipe.stem == "mqar_forget"
    (tmp_path / "ESSAYS.txt").write_text("A sentence of an essay, and more. " * 60)
    form = recipe.stem.removeprefix("jsonl_")
    (tmp_path / "SAMPLES.jsonl").write_text(json.dumps(FORMS.get(form, {})) + "\n")
    places = {"DIR": str(ROOT / "tests" / "golden" / "mamba2-hf"), command[2]: str(recipe)}
    shrunk = [] if form in FORMS else ["--lengths", "1K" if "niah" in form else "64", "--depths", "2", "--trials", "1"]
    more = ["--tokenizer", "bytes", "--device", "cpu", "--max-new-tokens", "8", *shrunk]
    done = subprocess.run(
        [STUFFED, *(places.get(argument, argument) for argument in command), *more],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    header, *records, end = read_journal(tmp_path / "OUT.jsonl")
    assert header["schema"] == "stuffed.retrieval" and end["records"] == len(records)
    assert sum("score" in record for record in records) == (1 if form in FORMS else 2)
