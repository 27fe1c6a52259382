"""How far a run is, as plain lines where standard error is no terminal: one format, for every command that says it."""

import os
import re
import select
import signal
import subprocess
import time

from cli_support import GOLDEN, STUFFED, needs_binary

pytestmark = needs_binary
MODEL = ["--model", GOLDEN / "mamba2-hf", "--tokenizer", "bytes", "--device", "cpu"]
TEXT = ["--prompt", "newlines", "--length", "16M"]
TIME = r"(\d+ s|\d+ min|\d+ h \d\d min)"
LINE = rf": (\d+) of (\d+) %s, (\d+) tokens/s, {TIME} left$"
COMMANDS = {
    "ppl-by-length": ([*MODEL, *TEXT], "^document 0" + LINE % "tokens"),
    "state-stats": ([*MODEL, *TEXT, "--stride", "1M", "--no-rank"], "^document 0" + LINE % "tokens"),
    "retention": ([*MODEL, *TEXT, "--grid", "1,1K"], "^document 0" + LINE % r"tokens \(suffixes counted\)"),
    "passkey": (
        [*MODEL, "--lengths", "8M", "--depths", "2", "--trials", "1"],
        r"^\d+ of 2 prompts" + LINE % "tokens",
    ),
}


def lines_of(process, seconds):
    """What comes on standard error until a whole line is there."""
    text, end = b"", time.monotonic() + seconds
    while b"\n" not in text and time.monotonic() < end and process.poll() is None:
        if select.select([process.stderr], [], [], 0.1)[0]:
            text += os.read(process.stderr.fileno(), 4096)
    return text.decode().splitlines()


def test_a_plain_line_says_how_much_how_fast_and_how_long(tmp_path):
    """At once, since each waits ten seconds for its first line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = {
        name: subprocess.Popen(
            [STUFFED, name, *map(str, options), "-o", tmp_path / f"{name}.jsonl"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for name, (options, _) in COMMANDS.items()
    }
    try:
        for name, process in running.items():
            (line,) = lines_of(process, 60)
            found = re.search(COMMANDS[name][1], line)
            assert found, f"{name}: {line!r}"
            done, total, speed = map(int, found.groups()[:3])
            assert 0 < done < total and speed > 0, line
            process.send_signal(signal.SIGTERM)
        for name, process in running.items():
            assert process.wait(timeout=60) == 75, name
    finally:
        for process in running.values():
            process.kill()
            process.communicate()


def test_training_says_its_step_loss_speed_and_time_left(tmp_path):
    steps = 3
    shape = '{"hidden_size": 16, "num_hidden_layers": 1, "head_dim": 8, "state_size": 8}'
    run = ["train", "--model-config", shape, "--steps", str(steps), "--log-every", "1", "--length", "64", "--window",
           "64", "--batch", "2", "--warmup", "0", "--decay", "0", "--mix", "repeat=1", "--device", "cpu"]  # fmt: skip
    done = subprocess.run([STUFFED, *run, "-o", tmp_path / "run"], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert len(lines) == steps, lines
    for step, line in enumerate(lines, 1):
        assert re.fullmatch(
            rf"step {step}/{steps}  loss \d+\.\d{{4}} nats  rate \d\.\d\de-\d\d  gradient \d+\.\d\d  "
            r"\d+ tokens/s  \d+ s left",
            line,
        ), line


def test_a_long_prompt_is_counted_segment_by_segment(tmp_path):
    (tmp_path / "prompt.txt").write_text("abcd" * 50)
    generate = ["generate", *map(str, MODEL), "--prompt-file", tmp_path / "prompt.txt", "--max-new-tokens", "1"]
    done = subprocess.run([STUFFED, *generate, "--segment", "64"], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == [f"prompt: {fed} of 200 tokens" for fed in (64, 128, 192, 200)]
    done = subprocess.run([STUFFED, *generate, "--segment", "200"], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_verify_says_what_is_running(tmp_path):
    verify = ["verify", GOLDEN / "mamba2-hf", "--length", "8", "--dtype", "f32", "--device", "cpu", "--segments", "3"]
    done = subprocess.run([STUFFED, *verify], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()
    assert lines and all(re.fullmatch(r"verify: \S+, cpu f32 .*, .* \.\.\.", line) for line in lines), lines
