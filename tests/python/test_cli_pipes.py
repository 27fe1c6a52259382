"""Where a text comes from, seen from outside: files, pipes, compressed files, and what is none of these."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from cli_support import DATA, ROOT, STUFFED, needs_binary, refused, stuffed
from safetensors import safe_open
from safetensors.numpy import load_file

pytestmark = needs_binary
MODEL = ROOT / "tests" / "models" / "mamba2-short"
TEXT = ROOT / "tests" / "models" / "text" / "romans.txt"
LINES = b"".join(json.dumps({"id": i, "text": f"document {i} " * (20 + i)}).encode() + b"\n" for i in range(4))


def measure(out, *arguments, **options):
    return stuffed(
        "ppl-by-length", "--model", MODEL, "--device", "cpu", "--bucket", "16", "-o", out, *arguments, **options
    )


def records(out, without=("name", "piped")):
    """Without what tells where the text came from."""
    found = [json.loads(line) for line in out.read_bytes().splitlines()]
    return [{k: v for k, v in r.items() if k not in without} for r in found if "key" in r]


def records_with_names(out):
    return records(out, without=())


def feed(path, data):
    def write():
        with open(path, "wb") as pipe:
            pipe.write(data)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def compressed(data):
    yield gzip.compress(data[:100]) + gzip.compress(data[100:])
    if shutil.which("zstd"):
        parts = [
            subprocess.run(["zstd", "-qc"], input=d, stdout=subprocess.PIPE).stdout for d in (data[:100], data[100:])
        ]
        yield b"".join(parts)


@pytest.mark.parametrize(("flags", "data"), [(["--text"], TEXT.read_bytes()[:3000]), (["--jsonl"], LINES)])
def test_a_text_is_the_same_from_a_file_a_pipe_and_compressed(flags, data, tmp_path):
    plain, out = tmp_path / "plain.txt", tmp_path / "plain.jsonl"
    plain.write_bytes(data)
    done = measure(out, *flags, plain)
    assert done.returncode == 0, done.stderr
    expected = records(out)
    for i, packed in enumerate([data, *compressed(data)]):
        file, pipe = tmp_path / f"{i}.txt", tmp_path / f"{i}.fifo"
        file.write_bytes(packed)
        os.mkfifo(pipe)
        with open(file, "rb") as standard_input:
            done = measure(tmp_path / f"{i}a.jsonl", *flags, "-", stdin=standard_input)
        assert done.returncode == 0 and records(tmp_path / f"{i}a.jsonl") == expected, done.stderr
        feed(pipe, packed)
        done = measure(tmp_path / f"{i}b.jsonl", *flags, pipe)
        assert done.returncode == 0 and records(tmp_path / f"{i}b.jsonl") == expected, done.stderr
        done = measure(tmp_path / f"{i}c.jsonl", *flags, file)
        assert done.returncode == 0 and records(tmp_path / f"{i}c.jsonl") == expected, done.stderr
        ids = stuffed("tokenize", "--tokenizer", "bytes", file).stdout
        assert json.loads(ids) == list(data)


@pytest.mark.parametrize("flag", ["--text", "--jsonl"])
def test_compressed_data_that_end_too_soon_are_refused(flag, tmp_path):
    for number, packed in enumerate(compressed(LINES)):
        file = tmp_path / "cut"
        file.write_bytes(packed[:-5])
        refused(measure(tmp_path / f"{number}.jsonl", flag, file), 3, file, "truncated")
        refused(stuffed("tokenize", "--tokenizer", "bytes", file), 3, file, "truncated")


def test_what_is_no_file_is_refused_at_once_everywhere(tmp_path):
    pipe = tmp_path / "fifo"
    os.mkfifo(pipe)
    out = tmp_path / "a.jsonl"
    for place in (pipe, "/dev/zero"):
        refused(measure(out, "--tokens", place), 3, place)
        refused(measure(out, "--text", TEXT, "--tokenizer", place), 3, place)
        refused(stuffed("tokenize", "--tokenizer", place, TEXT), 3, place)
        refused(stuffed("inspect", place), 3, place)
        refused(stuffed("export", place, "-o", tmp_path / "ex"), 3, place)
        generate = ["generate", "--model", MODEL, "--device", "cpu"]
        refused(stuffed(*generate, "--prompt-file", place), 3, place)
        refused(stuffed(*generate, "--load-state", place), 3, place)
        limits = measure(out, "--text", TEXT, "--length", "64", "--mitigation", f"clamp_norm:limits={place}")
        refused(limits, 3, place)
        assert stuffed("ppl-by-length", "--config", place).returncode == 3
    for flag in ("--text", "--jsonl"):
        refused(measure(out, flag, "/dev/zero"), 3, "/dev/zero", "device")
    refused(stuffed("tokenize", "--tokenizer", "bytes", "/dev/zero"), 3, "/dev/zero", "device")


def test_only_as_much_of_an_endless_pipe_is_read_as_is_needed(tmp_path):
    with subprocess.Popen(["yes", "all work and no play"], stdout=subprocess.PIPE) as endless:
        done = measure(tmp_path / "a.jsonl", "--text", "-", "--length", "128", stdin=endless.stdout)
        endless.kill()
    assert done.returncode == 0, done.stderr
    (document, _) = records(tmp_path / "a.jsonl")
    assert document["targets"] == 128


def test_a_pipe_is_read_again_on_resume_and_must_give_the_same_text(tmp_path):
    out = tmp_path / "a.jsonl"
    source, other = tmp_path / "lines", tmp_path / "other"
    source.write_bytes(LINES)
    other.write_bytes(LINES.replace(b"document 1 ", b"document 7 ", 1))
    run = ["--jsonl", "-"]
    with open(source, "rb") as lines:
        assert measure(out, *run, stdin=lines).returncode == 0
    whole = out.read_bytes()
    kept = b"".join(whole.splitlines(keepends=True)[:3])  # two documents, as after a kill
    out.write_bytes(kept)
    with open(other, "rb") as lines:
        refused(measure(out, *run, stdin=lines), 3, out, "another text")
    assert out.read_bytes() == kept
    with open(source, "rb") as lines:
        assert measure(out, *run, stdin=lines).returncode == 0
    assert out.read_bytes() == whole
    with open(other, "rb") as lines:  # finished: nothing is read
        assert measure(out, *run, stdin=lines).returncode == 0


@pytest.mark.parametrize("command", ["ppl-by-length", "state-stats", "retention"])
def test_bad_lines_are_left_out_counted_and_listed(command, tmp_path):
    good = LINES.splitlines(keepends=True)
    bad = [b"{\n", b"\n", good[1], b'{"text":5}\n', b'{"text":"\xff"}\n']
    file = tmp_path / "books.jsonl"
    file.write_bytes(good[0] + b"".join(bad) + good[3])
    out = tmp_path / "a.jsonl"
    run = [
        command,
        "--model",
        MODEL,
        "--jsonl",
        file,
        "--length",
        "64",
        "--documents",
        "3",
        "--device",
        "cpu",
        "-o",
        out,
    ]
    run += ["--stride", "16"] if command == "state-stats" else []
    refused(stuffed(*run), 3, file, "line 2")
    done = stuffed(*run, "--skip-bad-lines")
    assert done.returncode == 0, done.stderr
    found = records_with_names(out)
    documents = [record for record in found if record["key"] != "summary"]
    assert [record["name"] for record in documents] == ["books.jsonl:1", "books.jsonl:4", "books.jsonl:7"]
    assert [record["document"] for record in documents] == [0, 2, 5]  # as if all lines could be read
    assert [record["key"] for record in documents] == ["document=0", "document=2", "document=5"]
    assert found[-1]["bad_lines"] == {"count": 3, "lines": [2, 5, 6]}
    assert "3 lines" in done.stderr and "2, 5, 6" in done.stderr
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    if command == "ppl-by-length":
        assert stuffed(*run, "--skip-bad-lines").returncode == 0
        assert out.read_bytes() == whole


def test_standard_input_is_read_once(tmp_path):
    refused(measure(tmp_path / "a.jsonl", "--text", "-", "-", stdin=subprocess.DEVNULL), 2, "--text", "only once")
    refused(stuffed("tokenize", "--tokenizer", "bytes", "-", "-", stdin=subprocess.DEVNULL), 2, "only once")


def most_memory_mb(*arguments):
    """Of a run of the binary, in MB."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)\n"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
    )
    command = [sys.executable, "-c", code, STUFFED, *map(str, arguments)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True)
    code, megabytes = map(int, done.stdout.split())
    assert code == 0
    return megabytes


def test_the_memory_of_reading_does_not_grow_with_the_line(tmp_path):
    sizes = {}
    for name, times in (("short", 100), ("long", 4_000_000)):
        line, text = tmp_path / f"{name}.jsonl", tmp_path / f"{name}.txt"
        line.write_bytes(b'{"text":"' + b"0123456789abcde " * times + b'","more":[1,2,3]}\n')
        text.write_bytes(b"0123456789abcde " * times)
        for flag, file in (("--jsonl", line), ("--text", text)):
            out = tmp_path / f"{name}{flag}.out"
            common = ("ppl-by-length", "--model", MODEL, "--device", "cpu", "--length", "256", "--bucket", "16")
            sizes[name, flag] = most_memory_mb(*common, flag, file, "-o", out)
    assert sizes["long", "--jsonl"] < sizes["short", "--jsonl"] + 32
    assert sizes["long", "--text"] < sizes["short", "--text"] + 32


def test_the_memory_of_tokenizing_does_not_grow_with_the_text(tmp_path):
    sizes = []
    for name, times in (("short", 100), ("long", 500_000)):
        text, tokens = tmp_path / f"{name}.txt", tmp_path / f"{name}.safetensors"
        text.write_bytes(b"0123456789abcde " * times)
        sizes.append(most_memory_mb("tokenize", "--tokenizer", "bytes", text, "-o", tokens))
        ids = load_file(tokens)["tokens"]
        assert ids.dtype == np.int64 and ids.shape == (1, 16 * times)
        assert np.array_equal(ids[0], np.frombuffer(text.read_bytes(), np.uint8))
    assert sizes[1] < sizes[0] + 32


def test_texts_of_other_lengths_make_no_token_file(tmp_path):
    texts = [tmp_path / name for name in ("a.txt", "b.txt", "c.txt")]
    for text, content in zip(texts, ("one two", "two one", "three"), strict=True):
        text.write_text(content)
    command = ("tokenize", "--tokenizer", "bytes", "-o", tmp_path / "t.safetensors")
    stuffed(*command, *texts[:2])
    with safe_open(tmp_path / "t.safetensors", "np") as file:
        assert file.get_tensor("tokens").tolist() == [list(b"one two"), list(b"two one")]
        assert file.metadata()["tokenizer"] == "bytes"
    before = (tmp_path / "t.safetensors").read_bytes()
    refused(stuffed(*command, *texts), 2, "equal lengths", "c.txt has 5")
    assert (tmp_path / "t.safetensors").read_bytes() == before


def test_a_tokenizer_encodes_a_long_text_in_pieces(tmp_path):
    text = TEXT.read_bytes() * 20
    file = tmp_path / "long.txt"
    file.write_bytes(text)
    whole = json.loads(stuffed("tokenize", "--tokenizer", DATA / "tokenizers" / "small_neox.json", file).stdout)
    back = tmp_path / "ids.json"
    back.write_text(json.dumps(whole))
    again = stuffed("tokenize", "--tokenizer", DATA / "tokenizers" / "small_neox.json", "--decode", back)
    assert again.stdout == text.decode()


# ---- journals that somebody edited ----

TAMPERED = [
    lambda r: r.update(targets=10**18, nll_sum_nats=[1.0]),
    lambda r: r.update(targets=-5),
    lambda r: r.update(targets="x"),
    lambda r: r.pop("targets"),
    lambda r: r.pop("nll_sum_nats"),
    lambda r: r["nll_sum_nats"].pop(),
    lambda r: r.update(nll_sum_nats=["a"] * len(r["nll_sum_nats"])),
    lambda r: r.update(finite="no"),
    lambda r: r.update(key="document=x"),
    lambda r: r.update(key="documents"),
]


@pytest.mark.parametrize("tamper", TAMPERED)
@pytest.mark.parametrize("torn", [b"", b'{"key":"docu'])
def test_an_edited_journal_is_refused_and_left_as_it_was(tamper, torn, tmp_path):
    out = tmp_path / "a.jsonl"
    assert measure(out, "--text", TEXT, "--length", "64").returncode == 0
    header, record, *_ = out.read_bytes().splitlines()
    edited = json.loads(record)
    tamper(edited)
    edited = {"key": edited.pop("key"), **edited}
    out.write_bytes(header + b"\n" + json.dumps(edited).encode() + b"\n" + torn)
    before = out.read_bytes()
    refused(measure(out, "--text", TEXT, "--length", "64"), 3, out)
    assert out.read_bytes() == before


# ---- mistyped ----


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["nosuch", "--help"], None),
        (["nosuch"], None),
        (["ppl-by-lenght", "--help"], "ppl-by-length"),
        (["passky", "--lengths", "512"], "passkey"),
        (["bench", "scann", "--help"], "scan"),
        (["ppl-by-length", "--model", "m", "--text", "x", "-o", "y", "--lenght", "8K"], "--length"),
        (["tokenize", "--tokeniser", "bytes"], "--tokenizer"),
    ],
)
def test_a_mistyped_name_is_usage_and_the_nearest_is_named(arguments, meant):
    done = stuffed(*arguments, stdin=subprocess.DEVNULL)
    refused(done, 2, *([f"did you mean '{meant}'?"] if meant else []))
    assert meant or "did you mean" not in done.stderr


@pytest.mark.parametrize(
    "command", ["ppl-by-length", "state-stats", "retention", "passkey", "generate", "verify", "train"]
)
@pytest.mark.parametrize("seed", ["-1", "1.5", "18446744073709551616", "x", ""])
def test_a_seed_is_a_whole_number(command, seed):
    refused(stuffed(command, f"--seed={seed}"), 2, "--seed")


@pytest.mark.parametrize("command", ["ppl-by-length", "state-stats", "retention", "train", "verify"])
def test_a_length_beyond_all_streams_is_refused_at_once(command):
    refused(stuffed(command, "--length", "9000000G"), 2, "--length", "9000000G")


def test_half_lives_that_begin_beyond_the_stream_are_refused_at_once(tmp_path):
    out = tmp_path / "a.jsonl"
    command = ["retention", "--model", MODEL, "--text", TEXT, "--device", "cpu", "-o", out]
    refused(stuffed(*command, "--length", "64", "--half-life-starts", "33"), 2, "--half-life-starts", "64")
    refused(stuffed(*command, "--length", "64", "--at", "16", "--half-life-starts", "9"), 2, "--half-life-starts", "16")
    assert not out.exists()
    assert stuffed(*command, "--length", "64", "--half-life-starts", "32").returncode == 0


def test_a_seed_in_a_config_file_is_one_too(tmp_path):
    config = tmp_path / "a.toml"
    config.write_text("seed = -1\n")
    refused(stuffed("ppl-by-length", "--config", config), 2, "--seed")
    config.write_text("lenght = 5\n")
    refused(stuffed("ppl-by-length", "--config", config), 2, "lenght", "did you mean 'length'?")
