"""`--batch-size auto`: found once, recorded as a number, and taken again; and what is said when the memory runs out."""

import json
import os
import re
import resource

import pytest
from cli_support import ROOT, needs_binary, refused, stuffed

pytestmark = needs_binary
MODEL = ROOT / "tests" / "models" / "mamba2-short"
TEXTS = sorted((ROOT / "tests" / "models" / "text").glob("*.txt"))
FEW = [word for text in TEXTS for word in ("--text", text)]


def ppl(out, *more, data=FEW, length=128):
    run = ["ppl-by-length", "--model", MODEL, "--device", "cpu", "--bucket", 16, "--length", length, "--save-every", 0]
    return stuffed(*run, *data, *more, "-o", out)


def config(out):
    return json.loads(out.read_text().splitlines()[0])["config"]


def records(out):
    return out.read_text().splitlines()[1:]


def test_it_is_a_number_in_the_records_and_what_was_recorded_is_taken_again(tmp_path):
    out, named = tmp_path / "a.jsonl", tmp_path / "named.jsonl"
    assert ppl(out, "--batch-size", "auto").returncode == 0
    assert config(out)["batch_size"] == len(TEXTS)  # rows that no document fills would be fed in vain
    # The same as if the number had been given, which goes on with it.
    assert ppl(named, "--batch-size", len(TEXTS)).returncode == 0
    assert config(named) == config(out) and records(named) == records(out)
    before = out.read_bytes()
    assert ppl(out, "--batch-size", len(TEXTS)).returncode == 0 and out.read_bytes() == before
    # An unfinished journal of another size: its number, which nothing on this machine would give.
    half = tmp_path / "half.jsonl"
    assert ppl(half, "--batch-size", 3).returncode == 0
    whole = half.read_bytes()
    half.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    assert ppl(half, "--batch-size", "auto").returncode == 0 and half.read_bytes() == whole
    refused(ppl(half, "--batch-size", 2), 2, "config.batch_size: 3 there, 2 here")
    # Nothing was measured yet, or it is to be begun anew: it is found anew.
    half.write_bytes(whole.splitlines(keepends=True)[0])
    assert ppl(half, "--batch-size", "auto").returncode == 0 and config(half)["batch_size"] == len(TEXTS)
    assert ppl(named, "--batch-size", 2, "--overwrite").returncode == 0
    assert ppl(named, "--batch-size", "auto", "--overwrite").returncode == 0
    assert config(named)["batch_size"] == len(TEXTS)


def test_on_a_cpu_it_makes_8k_tokens_of_documents_of_one_length(tmp_path):
    words = (TEXTS[0].read_text() * 3).split()
    lines = [" ".join(words[i : i + 60])[:257] for i in range(0, 4200, 60)]
    assert len(lines) == 70 and min(map(len, lines)) == 257
    books = tmp_path / "books.jsonl"
    books.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    found = {}
    for name, length, more in (("cut", 256, []), ("most", 64, []), ("segment", 256, ["--segment", 64])):
        out = tmp_path / f"{name}.jsonl"
        done = ppl(out, "--batch-size", "auto", *more, data=["--jsonl", books], length=length)
        assert done.returncode == 0, done.stderr
        found[name] = config(out)["batch_size"]
    assert found == {"cut": 8192 // 256, "most": 64, "segment": 64}
    # Lengths that differ: no two neighbours can be fed side by side, but the last three.
    books.write_text("".join(json.dumps({"text": "a" * n}) + "\n" for n in (20, 30, 20, 40, 50, 50, 50)))
    run = ["ppl-by-length", "--model", MODEL, "--device", "cpu", "--bucket", 16, "--jsonl", books]
    assert stuffed(*run, "--batch-size", "auto", "-o", tmp_path / "odd.jsonl").returncode == 0
    assert config(tmp_path / "odd.jsonl")["batch_size"] == 3
    # A pipe cannot be counted and then read.
    with books.open() as pipe:
        done = stuffed(*run[:-1], "-", "--batch-size", "auto", "-o", tmp_path / "pipe.jsonl", stdin=pipe)
    refused(done, 2, "--batch-size auto", "pipe", "give a number")
    refused(ppl(tmp_path / "b.jsonl", "--batch-size", "most"), 2, "--batch-size")


def test_of_passkey_and_of_a_sweep(tmp_path):
    passkey = ["--model", ROOT / "tests" / "models" / "mamba2-passkey", "--lengths", 512, "--depths", 2, "--trials", 3]
    out = tmp_path / "a.jsonl"
    assert stuffed("passkey", *passkey, "--batch-size", "auto", "-o", out).returncode == 0
    assert config(out)["batch_size"] == 6  # prompts
    before = out.read_bytes()
    assert stuffed("passkey", *passkey, "--batch-size", "auto", "-o", out).returncode == 0
    assert out.read_bytes() == before
    dry = json.loads(stuffed("passkey", *passkey, "--batch-size", "auto", "--dry-run").stdout)
    assert dry == json.loads(stuffed("passkey", *passkey, "--dry-run").stdout)
    sweep = f'[[runs]]\ncommand = "ppl-by-length"\nname = "a"\nmodel = "{MODEL}"\nlength = 128\nbatch-size = "auto"\n'
    (tmp_path / "s.toml").write_text(sweep + f"text = {json.dumps([str(text) for text in TEXTS])}\n")
    for _ in range(2):
        assert stuffed("sweep", tmp_path / "s.toml", "-o", tmp_path / "out").returncode == 0
    assert config(tmp_path / "out" / "a.jsonl")["batch_size"] == len(TEXTS)
    assert "1 of 1 cells, 1 done" in stuffed("sweep", tmp_path / "s.toml", "-o", tmp_path / "out", "--dry-run").stdout


def limited(mebibytes, *arguments):
    """With so much room for addresses."""
    size = mebibytes << 20
    return stuffed(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size)))


@pytest.mark.skipif("asan" in os.environ.get("STUFFED", ""), reason="the sanitizers take all addresses")
def test_what_is_said_to_fit_when_the_memory_runs_out_does(tmp_path):
    room = 1600
    run = ["ppl-by-length", "--model", MODEL, "--device", "cpu", "--tokenizer", "bytes", "--prompt", "newlines"]
    # Too long a segment, and too many rows; each with what is said to fit instead.
    for flag, more in (
        ("--segment", ["--length", "256K", "--segment", "256K"]),
        ("--batch-size", ["--length", 64, "--batch-size", 100_000]),
    ):
        done = limited(room, *run, *more, "-o", tmp_path / f"{flag}.jsonl")
        refused(done, 5, "out of memory", "a new run fits with", flag, "are free")
        (said,) = re.findall(rf"{flag} (\d+)", done.stderr)
        more[more.index(flag) + 1] = said
        again = limited(room, *run, *more, "-o", tmp_path / f"{flag}-again.jsonl")
        assert again.returncode == 0, f"{done.stderr}{again.stderr}"
