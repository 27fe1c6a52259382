"""Losses exported as the published code keeps them: loadable without trusting the file, and position by position."""

import json
import zipfile

import numpy as np
import pytest
from cli_support import GOLDEN, needs_binary, refused, stuffed
from safetensors.numpy import load_file, save_file

torch = pytest.importorskip("torch")

MODEL = GOLDEN / "mamba2-hf"
TARGETS = 300


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.safetensors"
    save_file({"tokens": np.random.default_rng(0).integers(0, 256, (2, TARGETS + 1))}, path)
    return path


def ppl(tokens, out, *more):
    return stuffed("ppl-by-length", "--model", MODEL, "--tokens", tokens, "--bucket", 64, "-o", out, *more)


def exported(folder):
    (path,) = folder.rglob("per_token_loss.pt")
    return path, torch.load(path, weights_only=True)


@needs_binary
def test_the_file_is_torchs_and_holds_every_loss(tokens, tmp_path):
    out = tmp_path / "a.jsonl"
    done = ppl(tokens, out, "--documents", 1, "--per-token", tmp_path / "nll.safetensors", "--train-len", "256")
    assert done.returncode == 0, done.stderr
    done = stuffed("export", "--format", "paper", out, "-o", tmp_path / "paper")
    assert done.returncode == 0 and not done.stderr, done.stderr
    path, loss = exported(tmp_path / "paper")
    assert path.relative_to(tmp_path / "paper").parts[0] == "result_per_token"
    assert path.parent.name == "tokens" and path.parent.parent.name == str(MODEL).replace("/", "--")
    assert loss.dtype == torch.float32 and tuple(loss.shape) == (1, TARGETS)
    np.testing.assert_array_equal(loss.numpy(), load_file(tmp_path / "nll.safetensors")["nll"])
    arguments = json.loads((path.parent / "args.json").read_text())
    assert arguments["prompt_name"] == "tokens" and arguments["bucket_size"] == 64
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None  # every CRC-32 is right
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert torch.equal(mapped, loss) and mapped.data_ptr() % 64 == 0


@needs_binary
@pytest.mark.parametrize("chunk", [1, 2, 7, 100, 150, 300, 301, 1000])
def test_chunks_lose_their_first_target_as_in_the_published_code(tokens, tmp_path, chunk):
    out = tmp_path / "a.jsonl"
    assert ppl(tokens, out, "--documents", 1, "--per-token", tmp_path / "nll.safetensors").returncode == 0
    done = stuffed("export", out, "-o", tmp_path / "paper", "--drop-chunk-targets", chunk)
    assert done.returncode == 0, done.stderr
    nll = torch.from_numpy(load_file(tmp_path / "nll.safetensors")["nll"])
    # Of each chunk of tokens, those behind its first are scored; token t's loss is column t - 1.
    scored = [t for first in range(0, TARGETS + 1, chunk) for t in range(first + 1, min(first + chunk, TARGETS + 1))]
    assert torch.equal(exported(tmp_path / "paper")[1], nll[:, [t - 1 for t in scored]])


@needs_binary
def test_documents_are_rows_and_the_prompt_names_its_folder(tmp_path, tokens):
    out = tmp_path / "a.jsonl"
    assert ppl(tokens, out, "--per-token", tmp_path / "nll.safetensors").returncode == 0
    assert stuffed("export", out, "-o", tmp_path / "rows").returncode == 0
    assert tuple(exported(tmp_path / "rows")[1].shape) == (2, TARGETS)
    out = tmp_path / "n.jsonl"
    data = ["--prompt", "newlines", "--length", 128, "--tokenizer", "bytes", "--bucket", 64]
    done = stuffed("ppl-by-length", "--model", f"{MODEL}/", *data, "--per-token", tmp_path / "n.safetensors", "-o", out)
    assert done.returncode == 0, done.stderr
    assert stuffed("export", out, "-o", tmp_path / "paper").returncode == 0
    path, _ = exported(tmp_path / "paper")
    assert path.parent.name == "newlines" and not path.parent.parent.name.endswith("-")


@needs_binary
def test_lines_that_were_left_out_leave_no_gap_in_the_losses(tmp_path):
    file, out = tmp_path / "books.jsonl", tmp_path / "a.jsonl"
    words = [json.dumps({"text": f"document {i} " * (20 + i)}) for i in range(3)]
    file.write_text("\n".join([words[0], "{", words[1], words[2]]) + "\n")
    data = ["--jsonl", file, "--tokenizer", "bytes", "--length", "128", "--skip-bad-lines", "--bucket", "64"]
    done = stuffed("ppl-by-length", "--model", MODEL, *data, "--per-token", tmp_path / "nll.safetensors", "-o", out)
    assert done.returncode == 0, done.stderr
    done = stuffed("export", out, "-o", tmp_path / "paper")
    assert done.returncode == 0, done.stderr
    path, loss = exported(tmp_path / "paper")
    assert path.parent.name == "books" and tuple(loss.shape) == (3, 128)
    np.testing.assert_array_equal(loss.numpy(), load_file(tmp_path / "nll.safetensors")["nll"])


@needs_binary
def test_the_losses_are_found_beside_a_journal_that_was_moved_or_is_old(tokens, tmp_path):
    (tmp_path / "one").mkdir()
    out, nll = tmp_path / "one" / "a.jsonl", tmp_path / "one" / "nll.safetensors"
    assert ppl(tokens, out, "--per-token", nll).returncode == 0
    (tmp_path / "one").rename(tmp_path / "two")
    out, nll = tmp_path / "two" / "a.jsonl", tmp_path / "two" / "nll.safetensors"
    assert stuffed("export", out, "-o", tmp_path / "moved").returncode == 0
    lines = out.read_text().splitlines(keepends=True)
    header = json.loads(lines[0])
    del header["provenance"]["per_token"], header["provenance"]["model"]
    out.write_text(json.dumps(header) + "\n" + "".join(lines[1:]))
    done = stuffed("export", out, "-o", tmp_path / "old")
    assert done.returncode == 0, done.stderr
    assert torch.equal(exported(tmp_path / "old")[1], exported(tmp_path / "moved")[1])
    nll.rename(tmp_path / "elsewhere.safetensors")
    refused(stuffed("export", out, "-o", tmp_path / "x"), 3, "--per-token")
    done = stuffed("export", out, "-o", tmp_path / "x", "--per-token", tmp_path / "elsewhere.safetensors")
    assert done.returncode == 0, done.stderr


@needs_binary
def test_what_is_not_there_or_another_runs_is_exit_code_3(tokens, tmp_path):
    out = tmp_path / "a.jsonl"
    assert ppl(tokens, out).returncode == 0
    refused(stuffed("export", out, "-o", tmp_path / "x"), 3, "without --per-token")
    out = tmp_path / "b.jsonl"
    assert ppl(tokens, out, "--per-token", tmp_path / "nll.safetensors").returncode == 0
    save_file({"nll": np.zeros((2, 5), np.float32)}, tmp_path / "other.safetensors")
    wrong = stuffed("export", out, "-o", tmp_path / "x", "--per-token", tmp_path / "other.safetensors")
    refused(wrong, 3, "another run's", "[2, 5]")
    out.write_text("".join(out.read_text().splitlines(keepends=True)[:2]))
    refused(stuffed("export", out, "-o", tmp_path / "x"), 3, "is not finished")
    assert not (tmp_path / "x").exists()
