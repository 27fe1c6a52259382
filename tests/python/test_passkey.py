"""Passkey runs, figures and exports end to end, on tiny checkpoints."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
TINY = ["--tokenizer", "bytes", "--device", "cpu", "--lengths", "512,1K", "--depths", "3", "--trials", "2"]

pytestmark = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")


def stuffed(*arguments: object) -> subprocess.CompletedProcess:
    command = [str(a) for a in (STUFFED, *arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("passkey") / "run.jsonl"
    done = stuffed("passkey", "--model", GOLDEN / "mamba2-hf", *TINY, "--train-len", "512", "-o", path)
    assert done.returncode == 0, done.stderr
    assert "depth" in done.stdout
    return path


def test_dry_run_is_one_object(tmp_path: pathlib.Path) -> None:
    done = stuffed("passkey", "--dry-run", *TINY)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["prompts"] == 12
    assert plan["tokens_to_feed"] < plan["prompt_tokens"]


def test_what_was_fed_equals_the_plan(run: pathlib.Path) -> None:
    plan = json.loads(stuffed("passkey", "--dry-run", "--model", GOLDEN / "mamba2-hf", *TINY).stdout)
    end = json.loads(run.read_text().splitlines()[-1])
    assert end["tokens_fed"] == plan["tokens_to_feed"]
    assert end["peak_states"] == plan["peak_states"]


def test_a_killed_run_goes_on_to_the_same_records(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines = run.read_text().splitlines(keepends=True)
    part = tmp_path / "part.jsonl"
    part.write_text("".join(lines[:5]) + lines[5][:20])
    done = stuffed("passkey", "--model", GOLDEN / "mamba2-hf", *TINY, "--train-len", "512", "-o", part)
    assert done.returncode == 0, done.stderr
    assert part.read_text().splitlines()[:-1] == run.read_text().splitlines()[:-1]


def test_export_writes_the_published_layout(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    done = stuffed("export", "--format", "paper", run, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out" / "args.json").read_text())["n_samples"] == 6
    for length in (512, 1024):
        path = tmp_path / "out" / "passkey" / f"preds_{length}.jsonl"
        samples = [json.loads(line) for line in path.read_text().splitlines()]
        assert [s["idx"] for s in samples] == [str(i) for i in range(6)]
        for sample in samples:
            assert list(sample) == ["idx", "prediction", "ground_truth", "relative_postion"]
            assert len(sample["ground_truth"]) == 5
            assert 0 <= sample["relative_postion"] <= 1


def test_plots_are_drawn_and_no_data_is_no_zero(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import plot_passkey
    import stuffed_results

    results = stuffed_results.read(run, "stuffed.passkey")
    lengths, grid = plot_passkey.accuracy_grid(results)
    assert lengths == [512, 1024]
    assert not grid.mask.any()
    results.records["summary/len=512"]["depths"][1] = None
    assert plot_passkey.accuracy_grid(results)[1].mask.tolist() == [[False, False], [True, False], [False, False]]
    plot_passkey.draw_heat_map(results, tmp_path / "heat_map.pdf")
    plot_passkey.draw_curves(results, tmp_path / "acc_curve.pdf")
    assert (tmp_path / "heat_map.pdf").stat().st_size > 1000
    assert (tmp_path / "acc_curve.pdf").stat().st_size > 1000


def test_a_picture_is_a_picture_and_not_a_folder(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    for output in ("x.png", "folder"):
        plot = [sys.executable, ROOT / "scripts" / "plot_passkey.py", run, "-o", tmp_path / output]
        done = subprocess.run(plot, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["acc_curve.pdf", "heat_map.pdf"]


def test_an_export_replaces_nothing_of_other_contents(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "args.json").write_text("{}")
    done = stuffed("export", run, "-o", out)
    assert done.returncode == 7 and "args.json" in done.stderr and "--overwrite" in done.stderr
    assert (out / "args.json").read_text() == "{}" and not list((out / "passkey").iterdir())
    assert stuffed("export", run, "-o", out, "--overwrite").returncode == 0
    assert stuffed("export", run, "-o", out).returncode == 0  # the same again
    (out / "args.json").unlink()
    (out / "args.json").hardlink_to(run)
    whole = run.read_bytes()
    done = stuffed("export", run, "-o", out, "--overwrite")
    assert done.returncode == 2 and run.read_bytes() == whole, done.stderr
