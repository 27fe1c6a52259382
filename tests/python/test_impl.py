"""--impl by operation: what is forced runs and is recorded, what an operation does not have is exit code 4."""

import json
import re

import pytest
from cli_support import GOLDEN, ROOT, needs_binary, stuffed

MODEL = GOLDEN / "mamba2-hf"
TOKENS = ["--tokens", MODEL / "golden.safetensors", "--tokens-key", "long_tokens", "--device", "cpu"]
TASK = ["ppl-by-length", "--model", MODEL, *TOKENS, "--documents", 1, "--length", 70, "--bucket", 35]

pytestmark = needs_binary


def run(out, *arguments):
    done = stuffed(*TASK, "-o", out, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_a_forced_form_runs_and_is_recorded(tmp_path):
    header, record, *_ = run(tmp_path / "auto.jsonl")
    assert header["config"]["impl"] == "auto" and record["impl"] == "tiled"
    others = "norm=reference,short_conv=reference,map=reference,few_rows=auto,nll=reference"
    forced_header, forced, *_ = run(tmp_path / "forced.jsonl", "--impl", others)
    canonical = "norm=reference,short_conv=reference,map=reference,nll=reference"
    assert forced_header["config"]["impl"] == canonical
    assert forced["impl"] == f"scan=tiled,{canonical}"
    assert forced["nll_sum_nats"] == pytest.approx(record["nll_sum_nats"], rel=1e-5)
    assert forced["nll_sum_nats"] != record["nll_sum_nats"]  # else nothing was forced


def test_a_run_resumes_by_the_same_choice_only(tmp_path):
    out = tmp_path / "out.jsonl"
    run(out, "--impl", "scan=step,norm=aten")
    before = out.read_bytes()
    run(out, "--impl", "norm=aten,scan=step")
    assert out.read_bytes() == before
    done = stuffed(*TASK, "-o", out, "--impl", "step")
    assert done.returncode == 2 and "impl" in done.stderr, done.stderr


def test_an_option_file_names_operations_too(tmp_path):
    (tmp_path / "options.toml").write_text('impl = "scan=aten,norm=aten"\n')
    header, record, *_ = run(tmp_path / "out.jsonl", "--config", tmp_path / "options.toml")
    assert header["config"]["impl"] == record["impl"] == "scan=aten,norm=aten"


@pytest.mark.parametrize(
    ("impl", "code", "message"),
    [
        ("norm=tiled", 4, "norm has no form 'tiled'; it has auto, cuda, fast, aten, reference"),
        ("few_rows=cuda", 4, "few_rows has no form 'cuda'; it has auto, fast, aten, reference"),
        ("fast", 4, "scan has no form 'fast'"),
        ("norm=cuda", 4, "norm: the form 'cuda' does not take .* those that do: fast, aten, reference"),
        ("norm=quick", 2, "'quick' is not an implementation; norm has auto, cuda, fast"),
        ("norms=fast", 2, "'norms' is not an operation; known are scan, norm, short_conv"),
        ("norm=fast,norm=aten", 2, "norm is given twice"),
    ],
)
def test_what_an_operation_does_not_have(impl, code, message, tmp_path):
    done = stuffed(*TASK, "-o", tmp_path / "out.jsonl", "--impl", impl)
    assert done.returncode == code and re.search(message, done.stderr), done.stderr


def test_verify_compares_one_operation(tmp_path):
    out = tmp_path / "v.jsonl"
    done = stuffed("verify", "--kernels", "--op", "norm", "--device", "cpu", "-o", out)
    assert done.returncode == 0 and "4 agree, 0 disagree" in done.stdout, done.stdout + done.stderr
    header, *records, _ = (json.loads(line) for line in out.read_text().splitlines())
    assert header["config"]["op"] == "norm"
    assert {(r["subject"], r["impl"], r["dtype"]) for r in records} == {
        ("norm", impl, dtype) for impl in ("fast", "aten") for dtype in ("f32", "bf16")
    }
    broken = stuffed("verify", "--kernels", "--op", "norm", "--device", "cpu", "--break", "fast")
    assert broken.returncode == 1 and "2 agree, 2 disagree" in broken.stdout, broken.stdout


@pytest.mark.parametrize("arguments", [["--op", "norms"], ["--op", "norm", "--family", "rwkv6"]])
def test_verify_refuses_what_it_does_not_know(arguments):
    assert stuffed("verify", "--kernels", *arguments).returncode == 2


def forms_listed(help_text):
    """By operation, as the help of a command with --impl lists them."""
    paragraph = re.search(r"Operations and their forms[^\n]*\n((?:  \w.*\n)+)", help_text)[1]
    rows = re.findall(r"^  (\w+) +([\w, ]+?) \(", paragraph, re.MULTILINE)
    return {name: forms.split(", ") for name, forms in rows}


def test_every_operation_has_a_folder_with_its_reference_and_cases():
    for name in re.findall(r"^OP\((\w+)\)", (ROOT / "src" / "ops" / "ops.inc").read_text(), re.MULTILINE):
        folder = ROOT / "kernels" / ("decay_scan" if name == "scan" else name)
        for part in (".h", "_cpu.cpp", "_cases.h", "_test.cpp"):
            assert (folder / f"{folder.name}{part}").exists(), name + part


def test_what_lists_operations_lists_their_forms():
    forms = forms_listed(stuffed("ppl-by-length", "--help").stdout)
    assert len(forms) >= 8 and forms == forms_listed(stuffed("bench", "scan", "--help").stdout)
    assert re.search(r"--op\s+(\S+)", stuffed("verify", "--help").stdout)[1].split("|") == ["all", *forms]
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| `src/ops/", page, re.MULTILINE)
    named = {name: re.sub(r" \([^)]*\)", "", listed).split(", ") for name, listed in rows}
    assert named == {name: [form for form in listed if form != "chunked"] for name, listed in forms.items()}
