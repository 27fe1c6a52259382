"""Signals and kills in the middle of a document: nothing is harmed, nothing measured is lost, and the same command ends
with the bytes of a run that nobody disturbed."""

import itertools
import json
import os
import pathlib
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from cli_support import GOLDEN, ROOT, STUFFED, needs_binary
from safetensors.numpy import load_file, save_file

pytestmark = needs_binary

SHORT = ROOT / "tests" / "models" / "mamba2-short"  # products wide enough for the kernels that move the stack pointer
CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
STOPPED = 75


@pytest.fixture(autouse=True)
def signals_act_by_default():
    """A program inherits what its parent ignores, as these tests do SIGHUP under nohup."""
    ignored = [caught for caught in CAUGHT if signal.getsignal(caught) == signal.SIG_IGN]
    for caught in ignored:
        signal.signal(caught, signal.SIG_DFL)
    yield
    for caught in ignored:
        signal.signal(caught, signal.SIG_IGN)


def start(arguments, threads=1, stdout=subprocess.DEVNULL, **options):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    command = [str(argument) for argument in (STUFFED, *arguments)]
    return subprocess.Popen(command, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True, **options)


def finish(arguments, **options):
    process = start(arguments, **options)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors


def wait_until(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()[1]


def takes_signals(process):
    """Before the program has come so far, a signal acts by default; nothing is lost then either."""
    try:
        status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    blocked = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigBlk:"))
    return bool(blocked >> (signal.SIGTERM - 1) & 1)


def records(path):
    return [line for line in path.read_bytes().splitlines() if line.startswith(b'{"key"')]


def text_file(tmp_path, characters):
    words = (ROOT / "tests" / "models" / "text" / "romans.txt").read_text()
    path = tmp_path / "text.txt"
    path.write_text((words * (characters // len(words) + 1))[:characters])
    return path


def ppl(tmp_path, characters, *more, segment=64):
    return (
        "ppl-by-length",
        *("--model", SHORT, "--device", "cpu", "--text", text_file(tmp_path, characters), "--segment", segment),
        *("--bucket", 32, *more, "-o"),
    )


def test_hundreds_of_signals_at_random_moments_change_no_byte(tmp_path):
    """A signal frame on the stack of a thread inside such a product would be written into the heap."""
    draw = random.Random(1)
    command = ppl(tmp_path, 3000)
    finish((*command, tmp_path / "whole.jsonl"))
    whole = records(tmp_path / "whole.jsonl")
    sent = 0
    for run in itertools.count():
        out, exits = tmp_path / f"{run}.jsonl", []
        while not exits or exits[-1] == STOPPED:
            process = start((*command, out), threads=2)
            wait_until(lambda process=process: takes_signals(process), process)
            time.sleep(draw.uniform(0, 0.1))
            for caught in draw.sample(CAUGHT, len(CAUGHT)):
                if process.poll() is None:
                    process.send_signal(caught)
                    sent += 1
                time.sleep(draw.uniform(0, 0.004))
            errors = process.communicate(timeout=60)[1]
            exits.append(process.returncode)
            assert exits[-1] in (0, STOPPED), f"exit {exits[-1]}: {errors}"
        assert records(out) == whole
        if sent >= 200:
            return


@pytest.mark.parametrize("caught", CAUGHT, ids=lambda caught: caught.name)
def test_a_signal_stops_within_a_document_and_the_same_command_goes_on(tmp_path, caught):
    command = ppl(tmp_path, 16000, "--save-every", "0.05")
    out, state = tmp_path / "a.jsonl", tmp_path / "a.jsonl.state"
    process = start((*command, out))
    wait_until(state.exists, process)
    process.send_signal(caught)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == STOPPED, errors
    assert "after this segment" in errors and "run the same command again" in errors
    assert state.exists() and records(out) == []
    finish((*command, out))
    finish((*command, tmp_path / "whole.jsonl"))
    assert records(out) == records(tmp_path / "whole.jsonl")
    assert not state.exists()


def test_a_second_signal_of_a_kind_acts_at_once_and_what_was_saved_stays(tmp_path):
    command = ppl(tmp_path, 16000, "--save-every", "0.05")
    out, state = tmp_path / "a.jsonl", tmp_path / "a.jsonl.state"
    process = start((*command, out))
    wait_until(state.exists, process)
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    process.communicate(timeout=30)
    assert process.returncode in (-signal.SIGTERM, STOPPED)
    finish((*command, out))
    finish((*command, tmp_path / "whole.jsonl"))
    assert records(out) == records(tmp_path / "whole.jsonl")


def test_a_signal_that_was_ignored_stays_ignored(tmp_path):
    command = ppl(tmp_path, 20000)
    process = start(
        (*command, tmp_path / "a.jsonl"), preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)
    )  # as nohup does
    wait_until(lambda: takes_signals(process), process)
    process.send_signal(signal.SIGHUP)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 0, errors


def test_without_a_file_for_results_a_signal_says_that_nothing_can_go_on(tmp_path):
    arguments = ppl(tmp_path, 200000)
    text = arguments.index("--text")
    stream = ("--prompt", "newlines", "--length", "200000")  # no file to read, where a signal would have less to say
    process = start((*arguments[:text], *stream, *arguments[text + 2 :], "-"), stdout=subprocess.PIPE)
    assert process.stdout.readline()  # the header: the stream begins
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == STOPPED and "cannot be resumed" in errors, errors


def test_a_kill_costs_no_more_than_the_seconds_between_two_saves(tmp_path):
    command = ppl(tmp_path, 16000, "--save-every", "0.05")
    out, state = tmp_path / "a.jsonl", tmp_path / "a.jsonl.state"
    process = start((*command, out))
    wait_until(state.exists, process)
    process.kill()
    process.communicate()
    assert records(out) == []
    finish((*command, out))
    finish((*command, tmp_path / "whole.jsonl"))
    assert records(out) == records(tmp_path / "whole.jsonl")


def test_a_state_beside_another_journal_is_refused(tmp_path):
    command = ppl(tmp_path, 16000, "--save-every", "0.05")
    for name in ("a", "b"):
        process = start((*command, tmp_path / f"{name}.jsonl"))
        wait_until((tmp_path / f"{name}.jsonl.state").exists, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == STOPPED
    (tmp_path / "a.jsonl.state").rename(tmp_path / "b.jsonl.state")
    process = start((*command, tmp_path / "b.jsonl"))
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 3 and "b.jsonl.state" in errors, errors
    finish((*command, tmp_path / "b.jsonl", "--overwrite"))


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL], ids=lambda way: way.name)
def test_a_dump_and_mitigated_decays_go_on_in_the_middle_of_a_document(tmp_path, way):
    save_file({"limits": np.full((3, 8), 0.02)}, tmp_path / "limits.safetensors")
    text = ("--text", text_file(tmp_path, 4001), "--tokenizer", "bytes", "--device", "cpu", "--segment", 64)
    clamp = f"clamp_norm:limits={tmp_path}/limits.safetensors"
    rule = ("--mitigation", "scale_gates:decay=0.999", "--mitigation", clamp)
    common = ("--model", GOLDEN / "mamba2-hf", *text, *rule, "--save-every", "0.05", "-o")
    tasks = {
        "state-stats": ("--stride", 512, "--dump", "100,1000,4000:0,2:1", "--length", 4000),
        "retention": ("--points", 4, "--length", 4000),
    }
    for task, more in tasks.items():
        folders = [tmp_path / f"{task}-{name}" for name in ("whole", "stopped")]
        for folder in folders:
            folder.mkdir()
        finish((task, *more, *common, folders[0] / "a.jsonl"))
        out = folders[1] / "a.jsonl"
        process = start((task, *more, *common, out))
        wait_until((folders[1] / "a.jsonl.state").exists, process)
        process.send_signal(way)
        process.communicate(timeout=30)
        finish((task, *more, *common, out))
        assert records(out) == records(folders[0] / "a.jsonl")
        files = [sorted(path.name for path in folder.iterdir()) for folder in folders]
        assert files[0] == files[1] and len(files[0]) == (3 if task == "state-stats" else 2)
        for name in files[0]:
            if name.endswith(".safetensors"):
                whole, stopped = (load_file(folder / name) for folder in folders)
                assert whole.keys() == stopped.keys()
                assert all(np.array_equal(whole[tensor], stopped[tensor], equal_nan=True) for tensor in whole)


def test_a_journal_that_was_removed_takes_its_state_along(tmp_path):
    command = ppl(tmp_path, 8000, "--save-every", "0.05")
    out, state = tmp_path / "a.jsonl", tmp_path / "a.jsonl.state"
    process = start((*command, out))
    wait_until(state.exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == STOPPED
    out.unlink()
    finish((*command, out))
    finish((*command, tmp_path / "whole.jsonl"))
    assert records(out) == records(tmp_path / "whole.jsonl") and not state.exists()
    state.write_bytes(b"somebody's notes")
    out.unlink()
    errors = start((*command, out)).communicate(timeout=60)[1]
    assert state.read_bytes() == b"somebody's notes" and "a.jsonl.state" in errors


def test_a_segment_of_many_seconds_is_left_and_done_again(tmp_path):
    """One segment of 600K tokens takes longer than anybody who stops a run should wait."""
    process = start((*ppl(tmp_path, 900_000, segment="600K"), tmp_path / "a.jsonl"))
    wait_until(lambda: takes_signals(process), process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == STOPPED, errors
    assert not (tmp_path / "a.jsonl.state").exists()  # it is written where a segment ends: none did


PASSKEY = GOLDEN.parent / "models" / "mamba2-passkey"


def test_a_signal_ends_the_reading_of_a_large_file(tmp_path):
    """Its hash takes a minute; nothing is measured yet."""
    text, out = tmp_path / "zeros.txt", tmp_path / "out.jsonl"
    with open(text, "wb") as file:
        file.truncate(64 << 30)  # a hole: it takes no room
    process = start(("ppl-by-length", "--model", GOLDEN / "mamba2-hf", "--tokenizer", "bytes", "--device", "cpu",
                     *("--text", text, "--length", 64, "-o", out)))  # fmt: skip
    wait_until(lambda: takes_signals(process), process)
    time.sleep(1)
    process.terminate()
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == STOPPED, errors
    assert not out.exists()


@pytest.mark.parametrize("more", [(), ("--mitigation", "sliding_window:tokens=96")], ids=["plain", "window"])
def test_a_prompt_tree_goes_on_where_it_stopped(tmp_path, more):
    command = (
        *("passkey", "--model", PASSKEY, "--device", "cpu", "--lengths", "1K..3K:1K", "--depths", 4, "--trials", 2),
        *("--segment", 128, "--batch-size", 4, *more, "-o"),
    )
    finish((*command, tmp_path / "whole.jsonl"), threads=1)
    out, stops = tmp_path / "a.jsonl", 0
    while True:
        process = start((*command, out), threads=1)
        wait_until(lambda process=process: takes_signals(process), process)
        time.sleep(0.2 + 0.05 * stops)
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
        assert process.returncode in (0, STOPPED), errors
        if process.returncode == 0:
            break
        stops += 1
    assert stops >= 2
    assert sorted(records(out)) == sorted(records(tmp_path / "whole.jsonl"))
    ends = [json.loads(path.read_text().splitlines()[-1]) for path in (out, tmp_path / "whole.jsonl")]
    assert ends[0] == ends[1]  # tokens fed, states held: nothing was fed twice
    assert not (tmp_path / "a.jsonl.state").exists()


def test_training_goes_on_after_a_signal_and_saves_by_the_clock(tmp_path):
    model = '{"hidden_size":32,"num_hidden_layers":2,"head_dim":16,"state_size":16}'
    command = (
        *("train", "--model-config", model, "--text", text_file(tmp_path, 20000), "--length", 64, "--window", 64),
        *("--batch", 4, "--steps", 60, "--warmup", 2, "--decay", 2, "--log-every", 5, "--validate-every", 20),
        *("--device", "cpu", "-o"),
    )
    finish((*command, tmp_path / "whole"), threads=1)
    folder = tmp_path / "a"
    process = start((*command, folder, "--save-every", "0.01"), threads=1)
    wait_until((folder / "checkpoint.safetensors").exists, process)
    process.kill()
    process.communicate()
    process = start((*command, folder), threads=1)
    wait_until(lambda: len(records(folder / "train.jsonl")) > 1, process)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode in (0, STOPPED), errors
    finish((*command, folder), threads=1)
    assert records(folder / "train.jsonl") == records(tmp_path / "whole" / "train.jsonl")
    weights = [(place / "model.safetensors").read_bytes() for place in (folder, tmp_path / "whole")]
    assert weights[0] == weights[1]
