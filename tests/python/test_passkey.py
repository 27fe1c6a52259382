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


def test_needles_are_exported_and_drawn_where_they_are(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    import numpy as np
    import plot_passkey
    import stuffed_results

    results = stuffed_results.read(run, "stuffed.passkey")
    trials = [record for record in results.records.values() if "passkey" in record]
    assert any(abs(trial["real_depth"] - trial["depth"]) > 1e-3 for trial in trials)
    for trial in trials:
        assert trial["real_depth"] == trial["position_blocks"] / (trial["blocks"] - 1)
        assert abs(trial["real_depth"] - trial["depth"]) * 3 <= 0.55
    done = stuffed("export", "--format", "paper", run, "-o", tmp_path / "out")
    assert done.returncode == 0 and not done.stderr, done.stderr
    lines = (tmp_path / "out" / "passkey" / "preds_512.jsonl").read_text().splitlines()
    exported = [json.loads(line)["relative_postion"] for line in lines]
    assert sorted(exported) == sorted(trial["real_depth"] for trial in trials if trial["length_tokens"] == 512)
    depths = plot_passkey.real_depths(results)
    cells = [results.records[f"summary/len={n}"]["depths"] for n in (512, 1024)]
    np.testing.assert_allclose(depths.T, [[cell["real_depth"] for cell in column] for column in cells])
    edges, values = plot_passkey.column(np.array([0.1, 0.5, 0.5]), np.ma.array([1.0, 0.0, 1.0]))
    assert edges.tolist() == [0, 0.3, 1] and values.tolist() == [1, 0.5]


def test_the_papers_needles_are_in_the_blocks_nearest_to_its_positions(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "a.jsonl"
    arguments = [*TINY[:4], "--lengths", "1K,3K", "--depths", "8", "--trials", "1", "--protocol", "paper-text"]
    done = stuffed("passkey", "--model", GOLDEN / "mamba2-hf", *arguments, "-o", out)
    assert done.returncode == 0, done.stderr
    trials = [r for r in map(json.loads, out.read_text().splitlines()) if "passkey" in r]
    block = 92  # bytes of a filler and a blank line
    inside = [t for t in trials if 0 < t["position_blocks"] < t["blocks"] - 1]
    assert len(inside) >= 12
    for trial in inside:  # the paper's: token length * i/n - 1
        assert abs(trial["needle_token"] - (trial["length_tokens"] * trial["depth"] - 1)) <= block / 2
    for trial in trials:
        assert trial["length_tokens"] - 2 * block < trial["prompt_tokens"] <= trial["length_tokens"]


def test_a_journal_cut_in_the_middle_is_exported_if_asked_to(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    lines = run.read_text().splitlines(keepends=True)
    for kept in (len(lines) // 2, len(lines) - 1):
        cut = tmp_path / "cut.jsonl"
        cut.write_text("".join(lines[:kept]))
        done = stuffed("export", "--format", "paper", cut, "-o", tmp_path / f"out{kept}")
        assert done.returncode == 3 and "is not finished" in done.stderr and "--partial" in done.stderr
        assert not (tmp_path / f"out{kept}").exists()
        done = stuffed("export", "--format", "paper", cut, "-o", tmp_path / f"out{kept}", "--partial")
        assert done.returncode == 0 and "is not finished" in done.stderr and "of 12 trials" in done.stderr


def test_an_answer_longer_than_what_is_decoded_is_said_and_counted(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "a.jsonl"
    arguments = [*TINY, "--protocol", "paper-code"]
    plan = stuffed("passkey", "--dry-run", *arguments)
    assert json.loads(plan.stdout)["answers_cut"] == 12 and "--max-new-tokens 6" in plan.stderr
    done = stuffed("passkey", "--model", GOLDEN / "mamba2-hf", *arguments, "-o", out)
    assert done.returncode == 0 and "12 of 12 answers" in done.stderr, done.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    summary = next(r for r in records if r.get("key") == "summary")
    assert summary["answers_cut"] == 12 and summary["effective_length"]["longest_tokens"] == 0
    one = next(r for r in records if r.get("key") == "summary/len=512")
    assert one["accuracy"] is None and one["depths"] == [None] * 3 and one["answers_cut"] == 6
    before = out.read_bytes()
    again = stuffed("passkey", "--model", GOLDEN / "mamba2-hf", *arguments, "-o", out)
    assert again.returncode == 0 and again.stdout == done.stdout and out.read_bytes() == before, again.stderr
    import plot_passkey
    import stuffed_results

    plot_passkey.draw_heat_map(stuffed_results.read(out), tmp_path / "a.pdf")
    enough = stuffed("passkey", "--dry-run", *arguments, "--max-new-tokens", "6")
    assert json.loads(enough.stdout)["answers_cut"] == 0 and not enough.stderr


def test_a_window_takes_its_share_of_the_memory_of_states() -> None:
    def planned(*more: object) -> dict:
        return json.loads(stuffed("passkey", "--dry-run", "--model", GOLDEN / "mamba2-hf", *TINY, *more).stdout)

    window = ["--mitigation", "sliding_window:tokens=100"]
    plain, slid = planned(), planned(*window)
    # Per token, layer: k 16, v 8 x 16, decay and step 8 each, f32; then an older state.
    assert slid["state_bytes"] - plain["state_bytes"] == 3 * 4 * (100 * (16 + 8 * 16 + 8 + 8) + 8 * 16 * 16)
    memory = ["--state-memory", str(5 * slid["state_bytes"])]
    assert planned(*window, *memory)["peak_states"] <= 5 < planned(*memory)["peak_states"]


def test_a_journal_that_does_not_say_how_needles_are_placed_goes_on_as_it_began(tmp_path: pathlib.Path) -> None:
    import plot_passkey
    import stuffed_results

    sample = GOLDEN / "results" / "passkey.v1.jsonl"
    lines = sample.read_text().splitlines(keepends=True)
    old = tmp_path / "old.jsonl"
    old.write_text("".join(lines[:5]))
    done = stuffed("passkey", "--model", GOLDEN / "mamba2-hf", *TINY, "--train-len", "512", "-o", old)
    assert done.returncode == 0, done.stderr
    before, after = (stuffed_results.read(path, "stuffed.passkey") for path in (sample, old))
    assert before.records.keys() == after.records.keys() and "placement" not in after.config
    for key, record in before.records.items():
        if "passkey" in record:
            for field in ("blocks", "position_blocks", "passkey", "prediction", "prompt_tokens", "depth"):
                assert after.records[key][field] == record[field]
    for run in (before, after):
        plot_passkey.draw_heat_map(run, tmp_path / "a.pdf")
        plot_passkey.draw_curves(run, tmp_path / "b.pdf")
    done = stuffed("passkey", "--model", GOLDEN / "mamba2-hf", *TINY, "--train-len", "512", "-o", old)
    assert done.returncode == 0, done.stderr  # finished: shown once more
    done = stuffed("export", sample, "-o", tmp_path / "out")
    assert done.returncode == 0 and not done.stderr, done.stderr
    first = json.loads((tmp_path / "out" / "passkey" / "preds_512.jsonl").read_text().splitlines()[0])
    trial = before.records["len=512/depth=0/trial=0"]
    assert first["relative_postion"] == trial["position_blocks"] / (trial["blocks"] - 1)


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
        plot = [sys.executable, ROOT / "scripts" / "plot" / "plot_passkey.py", run, "-o", tmp_path / output]
        done = subprocess.run(plot, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    files = [f"{name}.{end}" for name in ("acc_curve", "heat_map") for end in ("pdf", "png")]
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == files


def test_an_export_replaces_nothing_unless_asked_to(run: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "args.json").write_text("{}")
    done = stuffed("export", run, "-o", out)
    assert done.returncode == 7 and str(out) in done.stderr and "--overwrite" in done.stderr
    assert (out / "args.json").read_text() == "{}" and [path.name for path in out.iterdir()] == ["args.json"]
    assert stuffed("export", run, "-o", out, "--overwrite").returncode == 0
    assert stuffed("export", run, "-o", out).returncode == 7
    (out / "args.json").unlink()
    (out / "args.json").hardlink_to(run)
    whole = run.read_bytes()
    done = stuffed("export", run, "-o", out, "--overwrite")
    assert done.returncode == 2 and run.read_bytes() == whole, done.stderr
