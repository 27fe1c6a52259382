"""docs/results.md names every field that a run writes, and the pages of docs/ name files and commits that exist."""

import json
import pathlib
import re
import subprocess

import pytest
from cli_support import GOLDEN, ROOT, needs_binary, stuffed

DOCS = ROOT / "docs"
MODEL = GOLDEN / "mamba2-hf"
BYTE_MODEL = ROOT / "tests" / "models" / "mamba2-short"
TOKENS = ["--tokens", MODEL / "golden.safetensors", "--tokens-key", "long_tokens"]
NEW_MODEL = {"hidden_size": 32, "state_size": 8, "head_dim": 16, "num_hidden_layers": 2}
# Objects whose keys are a user's or another program's: names of files, sources and keys of config.json.
FREE = {"config.model", "config.mix", "config.mitigation_files", "record.clocks_before", "record.clocks_after"}
FREE |= {"config.cells.config", "config.cells.options"}  # of other schemas, and of commands


def section(schema: str) -> str:
    """What the page says of a schema, with what it says of all."""
    page = (DOCS / "results.md").read_text()
    common, *sections = re.split(r"\n## (?=stuffed\.|Other JSON|Files beside)", page)
    own = [text for text in sections if text.startswith(f"{schema}, version ")]
    assert len(own) == 1, f"docs/results.md has {len(own)} sections on {schema}"
    return common + own[0]


def fields(value, path: str) -> set[tuple[str, str]]:
    """(name, where) of every key in a line, at any depth."""
    if isinstance(value, list):
        return {field for inner in value for field in fields(inner, path)}
    if not isinstance(value, dict):
        return set()
    here = {(key, path) for key in value}
    deeper = (fields(inner, f"{path}.{key}") for key, inner in value.items() if f"{path}.{key}" not in FREE)
    return here.union(*deeper)


def fields_of(lines: list[dict]) -> set[tuple[str, str]]:
    header, *rest = lines
    found = {(key, "header") for key in header}
    found |= fields(header["config"], "config") | fields(header["provenance"], "provenance")
    for line in rest:
        found |= fields(line, "record")
    return found


def of_cells(lines: list[dict]) -> list[list[dict]]:
    """The cells of a merged sweep, each as a journal of its own."""
    header, *rest = lines
    return [
        [
            {"schema": cell["schema"], "version": cell["version"], "config": cell["config"], "provenance": {}},
            *({k: v for k, v in line.items() if k != "cell"} for line in rest if line.get("cell") == cell["name"]),
        ]
        for cell in header["config"]["cells"]
    ]


def lacking(lines: list[dict]) -> list[str]:
    """Fields of a journal that its section does not name between backquotes."""
    header = lines[0]
    if header["schema"] == "stuffed.sweep":
        inner = [field for cell in of_cells(lines) for field in lacking(cell)]
        lines = [header, {"key": "", "cell": ""}, lines[-1]]
    else:
        inner = []
    text = section(header["schema"])
    named = {word for quoted in re.findall(r"`([^`\n]+)`", text) for word in re.findall(r"\w+", quoted)}
    if header["schema"] == "stuffed.train":  # its model is the config.json that was given
        return sorted({f"{where}.{name}" for name, where in fields_of(lines) if name not in named})
    model = fields(header["config"].get("model"), "config.model") if header["config"].get("model") else set()
    return inner + sorted({f"{where}.{name}" for name, where in fields_of(lines) | model if name not in named})


def read(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("path", sorted((GOLDEN / "results").glob("*.jsonl")), ids=lambda path: path.name)
def test_every_field_of_a_sample_is_on_the_page(path):
    lines = read(path)
    assert lacking(lines) == []
    assert f"## {lines[0]['schema']}, version {lines[0]['version']}\n" in (DOCS / "results.md").read_text()


def test_a_field_that_the_page_lacks_is_found():
    lines = read(GOLDEN / "results" / "ppl_by_length.v1.jsonl")
    lines[1]["unheard_of"] = 1
    lines[0]["config"]["data"]["another"] = 1
    assert lacking(lines) == ["config.data.another", "record.unheard_of"]


RUNS = {
    "ppl-by-length": [*TOKENS, "--bucket", 64, "--train-len", 256, "--per-token", "nll.safetensors"],
    "state-stats": [*TOKENS, "--stride", 128, "--train-len", 512, "--histogram-at", 512, "--dump", 128],
    "retention": [*TOKENS, "--length", 64, "--at", "24,48", "--points", 4, "--mitigation", "rri"],
    "verify": ["--device", "cpu", "--dtype", "f32", "--length", 20, "--no-long"],
}


@needs_binary
@pytest.mark.parametrize("command", RUNS)
def test_every_field_that_a_run_writes_is_on_the_page(command, tmp_path):
    out = tmp_path / "out.jsonl"
    arguments = [tmp_path / a if a == "nll.safetensors" else a for a in RUNS[command]]
    done = stuffed(command, "--model", MODEL, *arguments, "-o", out)
    assert done.returncode == 0, done.stderr
    assert lacking(read(out)) == []


@needs_binary
def test_the_fields_of_documents_read_from_texts_are_on_the_page(tmp_path):
    lines = ['{"text":"' + "a" * 90 + '"}', "no JSON", '{"text":"' + "b" * 90 + '"}']
    (tmp_path / "bad.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "out.jsonl"
    data = ["--tokenizer", "bytes", "--jsonl", tmp_path / "bad.jsonl", "--skip-bad-lines", "--pack", "--length", 64]
    done = stuffed("ppl-by-length", "--model", BYTE_MODEL, *data, "--bucket", 16, "-o", out)
    assert done.returncode == 0, done.stderr
    records = read(out)
    assert lacking(records) == []
    assert "boundaries" in records[1] and "bad_lines" in records[-2]  # what this test is for


@needs_binary
def test_every_field_that_passkey_writes_is_on_the_page(tmp_path):
    out = tmp_path / "out.jsonl"
    task = ["--tokenizer", "bytes", "--lengths", "512,1K", "--depths", 3, "--trials", 1]
    done = stuffed("passkey", "--model", MODEL, *task, "-o", out)
    assert done.returncode == 0, done.stderr
    assert lacking(read(out)) == []


@needs_binary
@pytest.mark.parametrize("task", ["niah-multivalue", "mqar-forget"])
def test_every_field_that_retrieval_writes_is_on_the_page(task, tmp_path):
    out = tmp_path / "out.jsonl"
    size = ["--lengths", "1536", "--depths", 2, "--trials", 1, "--max-new-tokens", 4]
    size += ["--vocabulary", 64] if task == "mqar-forget" else []
    done = stuffed("retrieval", "--model", MODEL, "--tokenizer", "bytes", "--task", task, *size, "-o", out)
    assert done.returncode == 0, done.stderr
    assert lacking(read(out)) == []


@needs_binary
def test_every_field_that_train_writes_is_on_the_page(tmp_path):
    text = tmp_path / "text"
    text.write_bytes(b"The quick brown fox jumps over the lazy dog. " * 100)
    options = ["--text", text, "--held-out", text, "--steps", 2, "--log-every", 1, "--validate-every", 2]
    shape = ["--length", 32, "--batch", 4, "--window", 64, "--validation-rows", 2, "--validation-length", 64]
    model = ["--model-config", json.dumps(NEW_MODEL), "--device", "cpu", "-o", tmp_path / "model"]
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    done = stuffed("train", "--distributed", *model, *options, *shape, env=alone)
    assert done.returncode == 0, done.stderr
    assert lacking(read(tmp_path / "model" / "train.jsonl")) == []


@needs_binary
@pytest.mark.parametrize("kind", ["scan", "model"])
def test_every_field_that_bench_writes_is_on_the_page(kind, tmp_path):
    out = tmp_path / "out.jsonl"
    what = {"scan": ["--family", "mamba2", "--heads", 1], "model": ["--model", MODEL]}[kind]
    quick = ["--tokens", 32, "--device", "cpu", "--repeats", 2, "--warmup", 0]
    done = stuffed("bench", kind, *what, *quick, "-o", out)
    assert done.returncode == 0, done.stderr
    assert lacking(read(out)) == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text()
    for path in re.findall(r"`((?:src|include|kernels|scripts|tests|configs|third_party)/[\w./-]+)`", text):
        if "NAME" not in path and "/OP" not in path and "/x/" not in path:
            assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([\w./-]+\.md)", text):
        assert (page.parent / link).exists(), link


SHOWN = r"Commit `(\w{7})` added[^\n]*\n(?:present[^\n]*\n)?((?:.*\n)*?)(?=\n## |\Z)"


def changed_files(commit: str) -> list[str]:
    """[] if the history here does not reach that far."""
    show = ["git", "-C", ROOT, "show", "--name-only", "--format=", commit]
    return subprocess.run(show, capture_output=True, text=True, check=False).stdout.split()


def test_commits_that_the_pages_show_changed_those_files():
    shown = re.findall(SHOWN, (DOCS / "adding.md").read_text())
    assert len(shown) == 5
    for commit, excerpt in shown:
        listed, files = set(re.findall(r"^    (\S+) +\| ", excerpt, re.MULTILINE)), set(changed_files(commit))
        assert listed and (not files or listed <= files), (commit, listed - files)


def test_readme_names_every_page_and_every_subcommand():
    readme = (ROOT / "README.md").read_text()
    for page in DOCS.glob("*.md"):
        assert f"docs/{page.name}" in readme
    names = re.findall(r"^COMMAND\((\w+)\)", (ROOT / "src" / "cli" / "commands.inc").read_text(), re.MULTILINE)
    for name in names:
        assert re.search(rf"build/stuffed {name.replace('_', '-')}\b", readme), name
