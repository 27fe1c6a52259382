"""bench from outside, on the CPU and small: what a record says, what is refused, and two runs compared."""

import os
import pathlib
import subprocess
import sys

import pytest
from cli_support import FAMILIES

ROOT = pathlib.Path(__file__).resolve().parents[2]
STUFFED = pathlib.Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
sys.path.insert(0, str(ROOT / "scripts"))
import stuffed_results  # noqa: E402

pytestmark = pytest.mark.skipif(not STUFFED.exists(), reason="build/stuffed is not built")

QUICK = ["--device", "cpu", "--repeats", "3", "--warmup", "1"]


def bench(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([STUFFED, "bench", *arguments], capture_output=True, text=True, env=environment)


def check_record(record):
    assert record["verdict"] == "timed" and record["repeats"] == 3
    assert 0 < record["seconds_p10"] <= record["seconds_median"] <= record["seconds_p90"]
    assert record["tokens_per_s"] > 0 and record["flops_per_s"] >= 0 and record["least_bytes_per_s"] > 0
    assert record["peak_memory_bytes"] > 1 << 20
    assert record["check"]["y_relative_rms"] <= record["check"]["y_bound"]
    assert record["clocks_before"] is None  # the CPU's are not read


def test_scan_records_say_what_was_measured(tmp_path):
    out = tmp_path / "scan.jsonl"
    shape = ["--heads", "2", "--tokens", "40,70", "--no-ceilings"]
    done = bench("scan", "--family", "rwkv6,mamba2,mamba1", *shape, *QUICK, "-o", out)
    assert done.returncode == 0, done.stderr
    run = stuffed_results.read(out, "stuffed.bench")
    assert run.finished and list(run.records) == [
        f"scan/{family}/B1_T{tokens}_H2_K{k}_V{v}/f32/cpu/{impl}"
        for family, k, v, impl in (("rwkv6", 64, 64, "aten"), ("mamba2", 128, 64, "tiled"), ("mamba1", 16, 1, "aten"))
        for tokens in (40, 70)
    ]
    for record in run.records.values():
        check_record(record)
        assert record["ns_per_token_per_layer"] == pytest.approx(record["seconds_median"] * 1e9 / record["tokens"])
        assert record["floor_fraction"] is None and record["check"]["tokens"] == record["tokens"]
    rwkv6 = next(iter(run.records.values()))  # r, k, v, log decay, y: all f32 here
    assert rwkv6["streamed_bytes_per_token"] == rwkv6["least_bytes_per_token"] == 2 * 5 * 64 * 4


def test_floors_come_from_what_this_machine_reaches(tmp_path):
    out = tmp_path / "scan.jsonl"
    done = bench("scan", "--family", "hgrn2", "--heads", "2", "--tokens", "64", *QUICK, "-o", out)
    assert done.returncode == 0, done.stderr
    (record,) = stuffed_results.read(out).records.values()
    ceilings = record["ceilings"]
    floor = 64 * max(
        record["least_bytes_per_token"] / ceilings["copy_bytes_per_s"],
        record["flops_per_token"] / ceilings["matmul_flops_per_s"],
    )
    assert record["floor_seconds"] == pytest.approx(floor)
    assert 0 < record["floor_fraction"] == pytest.approx(floor / record["seconds_median"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_timed_with_random_weights(tmp_path, family):
    out = tmp_path / "model.jsonl"
    more = ["--tokens", "40", "--batch", "2", "--decode-steps", "3", "--no-ceilings", *QUICK, "-o", out]
    done = bench("model", "--shape", f"{family}-tiny", *more)
    assert done.returncode == 0, done.stderr
    records = stuffed_results.read(out).records
    assert [r["phase"] for r in records.values()] == ["prefill", "evaluate", "decode", "decode-session"]
    for record in records.values():
        check_record(record)
        assert record["check"]["finite"] and record["layers"] == 2
    prefill, evaluate, decode, session = records.values()
    assert not session["cuda_graph"] and "CPU" in session["why_no_graph"] and session["steps"] == 3
    assert evaluate["flops_per_token"] == pytest.approx(prefill["flops_per_token"] + 2 * 64 * 256)
    assert decode["ms_per_step"] == pytest.approx(decode["seconds_median"] * 1e3 / 3)


def test_what_is_one_percent_wrong_is_refused(tmp_path):
    out = tmp_path / "x.jsonl"
    scan = ["--family", "rwkv5", "--heads", "1", "--tokens", "30", "--no-ceilings"]
    done = bench("scan", *scan, "--break", *QUICK, "-o", out)
    assert done.returncode == 1 and "REFUSED" in done.stdout, done.stderr
    (record,) = stuffed_results.read(out).records.values()
    assert record["verdict"] == "REFUSED" and "seconds_median" not in record
    model = ["--shape", "hgrn2-tiny", "--tokens", "30", "--no-ceilings"]
    done = bench("model", *model, "--break", *QUICK)
    assert done.returncode == 1 and done.stdout.count("REFUSED") == 4, done.stdout + done.stderr


def test_a_checkpoint_is_timed_too(tmp_path):
    out = tmp_path / "x.jsonl"
    model = ROOT / "tests" / "golden" / "rwkv7-pth"
    done = bench("model", "--model", model, "--phase", "prefill", "--tokens", "20", "--no-ceilings", *QUICK, "-o", out)
    assert done.returncode == 0, done.stderr
    run = stuffed_results.read(out)
    assert list(run.records) == ["model/rwkv7-pth/prefill/B1_T20/f32/cpu/auto"] and run.config["sha256"]


def test_options_come_from_a_config_file_too(tmp_path):
    config = tmp_path / "bench.toml"
    config.write_text('family = "rwkv6"\nheads = 1\ntokens = "20"\nno_ceilings = true\nrepeats = "2"\n')
    done = bench("scan", "--device", "cpu", "--config", config)
    assert done.returncode == 0 and "scan/rwkv6/B1_T20_H1_K64_V64/f32/cpu/aten" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, []),
        (2, ["scan"]),
        (2, ["scan", "--family", "lstm"]),
        (2, ["model"]),
        (2, ["model", "--shape", "mamba3-1b"]),
        (2, ["model", "--shape", "mamba2-tiny", "--model", "x"]),
        (3, ["model", "--model", "nowhere"]),
    ],
)
def test_what_is_wrong_has_its_exit_code(code, arguments):
    done = bench(*arguments)
    assert done.returncode == code, done.stderr
    if arguments[:1] == ["scan"]:
        assert "stuffed bench scan --help" in done.stderr
