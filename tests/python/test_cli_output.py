"""Where results go: no file is harmed, pipes are waited for, and what cannot be written is said."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import threading
import time

import pytest
from cli_support import GOLDEN, ROOT, STUFFED, needs_binary, refused, stuffed

pytestmark = needs_binary
MODEL = GOLDEN / "mamba2-hf"
TEXT = ROOT / "tests" / "models" / "text" / "romans.txt"
SHAPE = '{"hidden_size": 32, "num_hidden_layers": 1, "head_dim": 16, "state_size": 16}'


def arguments(command, out, *more, model=MODEL):
    stride = ["--stride", "16"] if command == "state-stats" else []
    return [command, "--model", model, "--tokenizer", "bytes", "--text", TEXT, "--length", "256", "--device", "cpu",
            *stride, "-o", out, *more]  # fmt: skip


def measure(command, out, *more, model=MODEL, **options):
    return stuffed(*arguments(command, out, *more, model=model), **options)


def train(out, *more):
    run = ["--steps", "2", "--checkpoint-every", "1", "--length", "64", "--window", "64", "--batch", "2", "--warmup",
           "0", "--decay", "0", "--log-every", "1", "--device", "cpu", "--text", TEXT]  # fmt: skip
    return stuffed("train", "--model-config", SHAPE, *run, "-o", out, *more)


def records(path):
    return [line for line in path.read_bytes().split(b"\n") if line.startswith(b'{"key"')]


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(MODEL, tmp_path / "model")


@pytest.fixture
def other(tmp_path):
    return shutil.copytree(GOLDEN / "mamba2-original", tmp_path / "other")


@pytest.mark.parametrize(
    ("command", "flag"), [("ppl-by-length", "--per-token"), ("state-stats", "--arrays"), ("retention", "--arrays")]
)
def test_an_input_is_never_an_output(command, flag, model, tmp_path):
    text = shutil.copy(TEXT, tmp_path / "x.txt")
    link = tmp_path / "link"
    link.hardlink_to(model / "model.safetensors")
    for place in (text, model / "model.safetensors", model / "config.json", link):
        whole = place.read_bytes()
        done = measure(command, tmp_path / "a.jsonl", flag, place, "--text", text, "--overwrite", model=model)
        assert done.returncode == 2 and flag in done.stderr, done.stderr
        assert place.read_bytes() == whole
        assert measure(command, place, "--text", text, "--overwrite", model=model).returncode == 2
        assert place.read_bytes() == whole
    assert not (tmp_path / "a.jsonl").exists()


def test_no_state_takes_the_place_of_an_input_or_of_a_foreign_file(model, tmp_path):
    base = ["generate", "--model", model, "--tokenizer", "bytes", "--prompt", "a", "--max-new-tokens", "1", "--device"]
    state, notes = tmp_path / "a.state", tmp_path / "notes.txt"
    notes.write_text("kept")
    assert stuffed(*base, "cpu", "--save-state", state).returncode == 0
    assert stuffed(*base, "cpu", "--save-state", state).returncode == 0  # the same again
    whole = (model / "model.safetensors").read_bytes()
    refused(stuffed(*base, "cpu", "--save-state", model / "model.safetensors"), 2, "--save-state", "--model")
    assert (model / "model.safetensors").read_bytes() == whole
    refused(stuffed(*base, "cpu", "--load-state", state, "--save-state", state), 2, "--save-state", "--load-state")
    refused(stuffed(*base, "cpu", "--save-state", notes), 3, notes, "left as it is")
    refused(stuffed(*base, "cpu", "--save-state", MODEL / "model.safetensors"), 3, "left as it is")
    assert notes.read_text() == "kept"


def test_no_tokens_take_the_place_of_an_input_or_of_a_foreign_file(tmp_path):
    text, notes, tokens = tmp_path / "x.txt", tmp_path / "notes.txt", tmp_path / "t.safetensors"
    text.write_text("hello")
    notes.write_text("kept")
    refused(stuffed("tokenize", "--tokenizer", "bytes", text, "-o", text), 2, text)
    with text.open() as file:
        refused(stuffed("tokenize", "--tokenizer", "bytes", "-", "-o", text, stdin=file), 2, text)
    refused(stuffed("tokenize", "--tokenizer", "bytes", text, "-o", notes), 3, notes)
    assert text.read_text() == "hello" and notes.read_text() == "kept"
    for _ in range(2):  # the same again replaces itself
        assert stuffed("tokenize", "--tokenizer", "bytes", text, "-o", tokens).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_a_device_node_is_left_alone(tmp_path):
    null = tmp_path / "null"
    if subprocess.run(["mknod", null, "c", "1", "3"], check=False).returncode != 0:
        pytest.skip("no device nodes here")
    assert measure("ppl-by-length", tmp_path / "a.jsonl", "--per-token", null).returncode == 7
    assert measure("state-stats", tmp_path / "b.jsonl", "--arrays", null).returncode == 7
    assert stuffed("tokenize", "--tokenizer", "bytes", TEXT, "-o", null).returncode == 7
    assert stat.S_ISCHR(null.stat().st_mode)


@pytest.mark.parametrize("again", [[], ["--overwrite"]])
def test_verify_and_bench_leave_the_journal_of_another_command_alone(again, tmp_path):
    out = tmp_path / "a.jsonl"
    assert measure("ppl-by-length", out).returncode == 0
    whole = out.read_bytes()
    verify = ["verify", MODEL, "--length", "8", "--dtype", "f32", "--device", "cpu", "--segments", "3"]
    bench = ["bench", "scan", "--family", "mamba2", "--heads", "1", "--key-width", "4", "--value-width", "4",
             "--device", "cpu", "--repeats", "1", "--no-ceilings", "--tokens"]  # fmt: skip
    refused(stuffed(*verify, "-o", out, *again), 2, out, "stuffed.ppl_by_length")
    refused(stuffed(*bench, "8", "-o", out, *again), 2, out, "stuffed.ppl_by_length")
    assert out.read_bytes() == whole
    mine = tmp_path / "bench.jsonl"
    for _ in range(2):  # the same command measures anew
        assert stuffed(*bench, "8", "-o", mine).returncode == 0
    refused(stuffed(*bench, "16", "-o", mine), 2, mine, "config.lengths_tokens", "--overwrite")
    assert stuffed(*bench, "16", "-o", mine, "--overwrite").returncode == 0


@pytest.mark.parametrize("command", ["state-stats", "retention"])
def test_arrays_have_the_whole_name_of_their_journal(command, other, tmp_path):
    small, large = tmp_path / "mamba2-1.3b", tmp_path / "mamba2-1.5b"
    assert measure(command, small).returncode == 0
    whole = (tmp_path / "mamba2-1.3b.safetensors").read_bytes()
    assert measure(command, large, model=other).returncode == 0
    assert (tmp_path / "mamba2-1.3b.safetensors").read_bytes() == whole
    # Two journals that would give one name: the second is refused.
    assert measure(command, tmp_path / "war.jsonl").returncode == 0
    whole = (tmp_path / "war.safetensors").read_bytes()
    for model in (MODEL, other):
        refused(measure(command, tmp_path / "war", model=model), 2, "war.safetensors", "another run")
    assert (tmp_path / "war.safetensors").read_bytes() == whole


def test_a_dump_replaces_nothing_but_its_own_journals(tmp_path):
    dump, more = tmp_path / "a.dump.safetensors", ["--documents", "1", "--dump", "16"]
    assert measure("state-stats", tmp_path / "a.jsonl", *more).returncode == 0
    whole = dump.read_bytes()
    arrays = ["--arrays", tmp_path / "other.safetensors"]
    refused(measure("state-stats", tmp_path / "a", *arrays, *more), 2, dump, "another run")
    assert dump.read_bytes() == whole
    dump.write_text("kept")
    refused(measure("state-stats", tmp_path / "a.jsonl", *more, "--overwrite"), 3, dump, "left as it is")
    assert dump.read_text() == "kept"


def test_an_older_journal_keeps_the_name_of_its_arrays(tmp_path):
    out = tmp_path / "mamba2-1.3b"
    assert measure("state-stats", out, "--arrays", tmp_path / "mamba2-1.safetensors").returncode == 0
    text = out.read_text()
    out.write_text(re.sub(r',"run_id":"[0-9a-f]+"', "", text))  # as older versions began one
    assert "run_id" in text and "run_id" not in out.read_text()
    done = measure("state-stats", out)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mamba2-1.3b.safetensors").exists()


def test_one_sidecar_of_two_runs_is_refused(other, tmp_path):
    shared, a, b = tmp_path / "nll.safetensors", tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    documents = tmp_path / "docs.jsonl"
    documents.write_text("".join(json.dumps({"text": f"{i} " + "hello world " * 400}) + "\n" for i in range(30)))
    more = ["--segment", "64", "--per-token", shared]
    base = ["ppl-by-length", "--tokenizer", "bytes", "--jsonl", documents, "--length", "4K", "--device", "cpu", *more]
    command = [str(x) for x in (STUFFED, *base, "--model", MODEL, "-o", a)]
    first = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 60
    while first.poll() is None and (not a.exists() or not records(a)) and time.monotonic() < until:
        time.sleep(0.01)
    refused(stuffed(*base, "--model", other, "-o", b), 2, shared, "another run", "a.jsonl")
    first.send_signal(signal.SIGKILL)
    first.wait()
    refused(stuffed(*base, "--model", other, "-o", b), 2, shared, "another run", "a.jsonl")
    assert stuffed(*base, "--model", MODEL, "-o", a).returncode == 0
    whole = shared.read_bytes()
    refused(stuffed(*base, "--model", other, "-o", b), 2, shared, "another run")
    assert shared.read_bytes() == whole
    shared.unlink()
    refused(stuffed(*base, "--model", MODEL, "-o", a), 3, shared, "missing", "--overwrite")
    elsewhere = tmp_path / "elsewhere.safetensors"
    refused(stuffed(*base[:-1], elsewhere, "--model", MODEL, "-o", a), 3, elsewhere, "missing")
    assert stuffed(*base, "--model", MODEL, "-o", a, "--overwrite").returncode == 0
    assert shared.read_bytes() == whole


def test_overwriting_does_not_lose_the_old_results_to_a_refusal(tmp_path):
    a, b, shared = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "nll.safetensors"
    assert measure("ppl-by-length", a).returncode == 0
    assert measure("ppl-by-length", b, "--per-token", shared).returncode == 0
    whole = a.read_bytes()
    refused(measure("ppl-by-length", a, "--per-token", shared, "--overwrite"), 2, shared, "another run")
    assert a.read_bytes() == whole


def test_standard_output_by_its_other_names(tmp_path):
    reference, out = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    assert measure("ppl-by-length", reference).returncode == 0
    with out.open("wb") as file:
        assert measure("ppl-by-length", "/dev/stdout", stdout=file).returncode == 0
    assert records(out) == records(reference) and out.read_bytes().count(b"\n") == 4  # and no table
    with reference.open("ab") as file:
        refused(measure("ppl-by-length", reference, stdout=file), 2, reference, "standard output")
    refused(measure("ppl-by-length", "/dev/stderr"), 2, "/dev/stderr")
    refused(measure("ppl-by-length", ""), 2, "-o")


def test_a_pipe_is_written_once_it_is_read(tmp_path):
    reference, fifo, got = tmp_path / "a.jsonl", tmp_path / "fifo", []
    assert measure("ppl-by-length", reference).returncode == 0
    os.mkfifo(fifo)

    def read():
        time.sleep(2)
        got.append(fifo.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    done = measure("ppl-by-length", fifo)
    reader.join()
    assert done.returncode == 0, done.stderr
    assert [line for line in got[0].split(b"\n") if line.startswith(b'{"key"')] == records(reference)


def test_a_pipe_whose_reader_leaves_ends_the_run(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def read():
        with fifo.open("rb") as pipe:
            pipe.read(10)

    reader = threading.Thread(target=read)
    reader.start()
    # The record is longer than a pipe holds: more than 8 bytes for each of 20,000 buckets.
    more = ["--prompt", "newlines", "--bucket", "1", "--length", "20K", "--device", "cpu", "-o", fifo]
    done = stuffed("ppl-by-length", "--model", MODEL, "--tokenizer", "bytes", *more)
    reader.join()
    refused(done, 7, fifo, "cannot be written")


def test_a_signal_ends_the_wait_for_a_reader(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    command = [str(x) for x in (STUFFED, *arguments("ppl-by-length", fifo))]
    run = subprocess.Popen(command, stderr=subprocess.PIPE)
    time.sleep(2)
    run.send_signal(signal.SIGTERM)
    assert run.wait(timeout=20) in (75, -signal.SIGTERM)


def test_a_pipe_that_no_one_reads_is_refused(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    refused(measure("ppl-by-length", fifo), 7, fifo, "no one reads")


COMMANDS = {
    "ppl-by-length": lambda out: arguments("ppl-by-length", out, "--per-token", f"{out}.nll"),
    "state-stats": lambda out: arguments("state-stats", out),
    "retention": lambda out: arguments("retention", out),
    "passkey": lambda out: ["passkey", "--model", MODEL, "--tokenizer", "bytes", "--device", "cpu", "--lengths", "512",
                            "--depths", "1", "--trials", "1", "-o", out],
    "tokenize": lambda out: ["tokenize", "--tokenizer", "bytes", TEXT, "-o", out],
    "generate": lambda out: ["generate", "--model", MODEL, "--tokenizer", "bytes", "--prompt", "a", "--device", "cpu",
                             "--max-new-tokens", "1", "--save-state", out],
}  # fmt: skip


def limited(size, *arguments):
    """With files of at most `size` bytes."""
    return stuffed(*arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))


@pytest.mark.parametrize("size", [0, 600])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_at_its_size_limit_is_exit_code_7_and_goes_on_with_room(command, size, tmp_path):
    out = tmp_path / "out.jsonl"
    refused(limited(size, *COMMANDS[command](out)), 7, "cannot be written", os.strerror(errno.EFBIG))
    assert not (out.exists() and command in ("tokenize", "generate")), "a half file is left"
    done = stuffed(*COMMANDS[command](out))
    assert done.returncode == 0, done.stderr


def test_a_dump_beyond_the_size_limit_says_so(tmp_path):
    dump = arguments("state-stats", tmp_path / "a.jsonl", "--documents", "1", "--dump", "1..256:1")
    refused(limited(1 << 16, *dump), 7, "a.dump.safetensors", os.strerror(errno.EFBIG))


def test_a_model_of_a_published_size_needs_no_file(tmp_path):
    bench = ["bench", "model", "--shape", "mamba2-tiny", "--device", "cpu", "--tokens", "8", "--phase", "prefill"]
    done = limited(1 << 14, *bench, "--no-ceilings", "--repeats", "1", "-o", tmp_path / "b.json")
    assert done.returncode == 0, done.stderr


def test_standard_error_that_cannot_be_written_changes_nothing(tmp_path):
    with open("/dev/full", "w") as full:
        assert stuffed("inspect", tmp_path / "absent", stderr=full).returncode == 3
        assert stuffed("nosuch", stderr=full).returncode == 2
        out = tmp_path / "a.jsonl"
        assert measure("ppl-by-length", out, stderr=full).returncode == 0
        verify = ["verify", MODEL, "--length", "8", "--dtype", "f32", "--device", "cpu", "--segments", "3"]
        assert stuffed(*verify, stderr=full).returncode == 0
        assert train(tmp_path / "run").returncode == 0
    for descriptors in ((1,), (2,), (0, 1, 2)):
        out = tmp_path / f"closed{len(descriptors)}{descriptors[0]}.jsonl"
        close = lambda fds=descriptors: [os.close(fd) for fd in fds]  # noqa: E731
        assert measure("ppl-by-length", out, preexec_fn=close).returncode == 0
        assert len(records(out)) == 2 and json.loads(out.read_text().splitlines()[-1])["end"]
    refused(measure("ppl-by-length", "-", preexec_fn=lambda: os.close(1)), 7, "cannot be written")
    for place in (ROOT / "src").rglob("*.cpp"):  # it throws where the place cannot be written
        assert "fmt::print(" not in place.read_text(), f"{place}: use print() of src/cli/print.h"


def test_a_model_is_not_trained_over(model, tmp_path):
    whole = (model / "model.safetensors").read_bytes()
    for more in ([], ["--overwrite"]):
        refused(train(model, *more), 3, "model.safetensors", "train.jsonl", "another folder")
    assert (model / "model.safetensors").read_bytes() == whole and not (model / "train.jsonl").exists()


def test_a_training_without_its_journal_or_its_model_is_said(tmp_path):
    run = tmp_path / "run"
    assert train(run).returncode == 0
    journal, model = run / "train.jsonl", run / "model.safetensors"
    kept, weights = journal.read_bytes(), model.read_bytes()
    model.unlink()
    refused(train(run), 3, "model.safetensors", "missing", "--overwrite")
    model.write_bytes(weights)
    journal.unlink()
    for _ in range(2):  # and is not taken for a run that measured nothing
        refused(train(run), 3, "checkpoint.safetensors", "train.jsonl", "step 1", "--overwrite")
    journal.write_bytes(kept.split(b"\n")[0] + b"\n")  # nothing of the steps
    refused(train(run), 3, "checkpoint.safetensors", "step 1", "--overwrite")
    assert train(run, "--overwrite").returncode == 0
    assert records(journal) == [line for line in kept.split(b"\n") if line.startswith(b'{"key"')]
    assert model.read_bytes() == weights
