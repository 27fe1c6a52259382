#!/usr/bin/env python3
"""Sends every subcommand SIGKILL, or other signals, at random moments, gives the same command again until it ends, and
compares every file it leaves with those of a run that nobody disturbed: no record lost, none twice, nothing left over.
A signal that can be caught must end the command within half a minute, with exit code 75 or by itself.

    .venv/bin/python scripts/stress.py                      # 40 kills of each subcommand: half an hour on two cores
    .venv/bin/python scripts/stress.py --kills 5 --only sweep,merge --seed 7
    .venv/bin/python scripts/stress.py --signals KILL,TERM,INT,HUP,USR1

The exit code is 1 if a difference was found. Runs on the tiny models of tests/models and tests/golden, on a CPU."""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODEL = ROOT / "tests" / "models" / "mamba2-short"
PASSKEY = ROOT / "tests" / "models" / "mamba2-passkey"
TEXTS = [ROOT / "tests" / "models" / "text" / f"{name}.txt" for name in ("romans", "james")]
TEXT = [word for text in TEXTS for word in ("--text", text)]
SAMPLES = ROOT / "tests" / "golden" / "results"
TRIES = 60  # a command that is killed this often gets nowhere
STOPPED = 75  # the exit code of a command that a signal stopped
SECONDS_TO_END = 30

SWEEP = f"""
[defaults]
device = "cpu"
text = ["{TEXTS[0]}", "{TEXTS[1]}"]
segment = 64
save-every = 0.02
[[runs]]
command = "ppl-by-length"
bucket = 64
[runs.grid]
model = ["{MODEL}", "{ROOT / "tests" / "models" / "mamba2-long"}"]
length = [512, 1024]
"""
SMALL = '{"hidden_size":32,"num_hidden_layers":1,"head_dim":16,"state_size":16}'
TRAIN = [
    "--model-config",
    SMALL,
    "--steps",
    40,
    "--length",
    64,
    "--batch",
    8,
    "--checkpoint-every",
    5,
    "--device",
    "cpu",
]


class Workload:
    """A command line that writes into one folder alone, and what it needs there before it runs."""

    def __init__(self, arguments, prepare=None, exact=True):
        self.arguments = arguments  # of the folder
        self.prepare = prepare or (lambda stuffed, folder: None)
        self.exact = exact  # False: values are times; the keys must be the same


def ppl_parts(stuffed, folder):
    """Two halves of one run, with their arrays."""
    whole = folder / "in" / "whole.jsonl"
    run(stuffed, ["ppl-by-length", "--model", MODEL, *TEXT, "--length", 256, "--bucket", 64, "-o", whole])
    header, first, second, *_ = whole.read_text().splitlines()
    for name, record in (("a", first), ("b", second)):
        (folder / "in" / f"{name}.jsonl").write_text(f'{header}\n{record}\n{{"end":true,"records":1}}\n')


def small_sweep(stuffed, folder):
    (folder / "in" / "sweep.toml").write_text(SWEEP)
    run(stuffed, ["sweep", folder / "in" / "sweep.toml", "-o", folder / "in" / "cells"])


def big_journal(_, folder):
    """So many records that reading and writing them takes a while."""
    header, trial, *_ = (SAMPLES / "passkey.v1.jsonl").read_text().splitlines()
    head, one = json.loads(header), json.loads(trial)
    head["config"].update(lengths_tokens=[one["length_tokens"]], depths=1, trials=20000)
    one.update(depth_index=0)
    with (folder / "in" / "big.jsonl").open("w") as file:
        file.write(json.dumps(head) + "\n")
        for n in range(20000):
            one.update(key=f"len={one['length_tokens']}/depth=0/trial={n}", trial=n)
            file.write(json.dumps(one) + "\n")
        file.write('{"end":true,"records":20000}\n')


def write_config(stuffed, folder):
    (folder / "in" / "sweep.toml").write_text(SWEEP)


def evaluation(command, *more, arrays=()):
    base = [command, "--model", MODEL, *TEXT, "--device", "cpu", "--save-every", 0.02, *more]
    return Workload(
        lambda folder: [
            *base,
            *(word for name in arrays for word in (name, folder / "arrays.safetensors")),
            "-o",
            folder / "out.jsonl",
        ]
    )


def export(form):
    return Workload(
        lambda folder: ["export", "--format", form, folder / "in" / "big.jsonl", "-o", folder / "out", "--overwrite"],
        big_journal,
    )


WORKLOADS = {
    "ppl-by-length": evaluation(
        "ppl-by-length", "--length", "2K", "--bucket", 64, "--segment", 64, arrays=["--per-token"]
    ),
    "state-stats": evaluation("state-stats", "--length", 1024, "--stride", 64, "--segment", 64, "--documents", 2),
    "retention": evaluation("retention", "--length", 512, "--points", 6, "--segment", 64),
    "passkey": Workload(
        lambda folder: [
            "passkey",
            "--model",
            PASSKEY,
            "--lengths",
            "512,1K",
            "--depths",
            3,
            "--trials",
            3,
            "--device",
            "cpu",
            "-o",
            folder / "out.jsonl",
        ]
    ),
    "retrieval": Workload(
        lambda folder: [
            "retrieval",
            "--task",
            "niah-multiquery",
            "--model",
            PASSKEY,
            "--lengths",
            "1K,1536",
            "--depths",
            3,
            "--trials",
            2,
            "--max-new-tokens",
            16,
            "--device",
            "cpu",
            "-o",
            folder / "out.jsonl",
        ]
    ),
    "train": Workload(lambda folder: ["train", *TEXT, *TRAIN, "-o", folder / "model"]),
    "generate": Workload(
        lambda folder: [
            "generate",
            "--model",
            MODEL,
            "--prompt",
            "In the beginning",
            "--max-new-tokens",
            200,
            "--save-state",
            folder / "state.safetensors",
        ]
    ),
    "tokenize": Workload(
        lambda folder: ["tokenize", "--tokenizer", "bytes", TEXTS[0], "-o", folder / "tokens.safetensors"]
    ),
    "tokenize-shards": Workload(
        lambda folder: ["tokenize", "--tokenizer", "bytes", *TEXTS * 20, "--shards", folder / "shards"]
    ),
    "sweep": Workload(
        lambda folder: ["sweep", folder / "in" / "sweep.toml", "-o", folder / "cells", "--jobs", 2], write_config
    ),
    "merge": Workload(
        lambda folder: ["merge", folder / "in" / "a.jsonl", folder / "in" / "b.jsonl", "-o", folder / "out.jsonl"],
        ppl_parts,
    ),
    "merge-sweep": Workload(lambda folder: ["merge", folder / "in" / "cells", "-o", folder / "out.jsonl"], small_sweep),
    "compare": Workload(
        lambda folder: ["compare", folder / "in" / "big.jsonl", folder / "in" / "big.jsonl", "--atol", 0], big_journal
    ),
    "fit": Workload(
        lambda folder: ["fit", "forget", "--published", "-o", folder / "out.jsonl"],
    ),
    "report": Workload(lambda folder: ["report", folder / "in" / "big.jsonl", "-o", folder / "page.html"], big_journal),
    "export-csv": export("csv"),
    "export-lm-eval": export("lm-eval"),
    "export-paper": export("paper"),
    "verify": Workload(
        lambda folder: [
            "verify",
            ROOT / "tests" / "golden" / "mamba2-hf",
            "--device",
            "cpu",
            "--length",
            64,
            "--no-long",
            "--dtype",
            "f32",
            "-o",
            folder / "out.jsonl",
        ]
    ),
    "bench": Workload(
        lambda folder: [
            "bench",
            "scan",
            "--family",
            "mamba2",
            "--device",
            "cpu",
            "--tokens",
            64,
            "--repeats",
            2,
            "--warmup",
            1,
            "--no-ceilings",
            "-o",
            folder / "out.jsonl",
        ],
        exact=False,
    ),
    "inspect": Workload(lambda folder: ["inspect", MODEL]),
    "mitigations": Workload(lambda folder: ["mitigations"]),
}


def start(stuffed, arguments):
    words = [str(word) for word in (stuffed, *arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def run(stuffed, arguments):
    process = start(stuffed, arguments)
    errors = process.communicate()[1]
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: exit code {process.returncode}: {errors}")


def content_of(path, exact):
    """What must be the same: of a journal neither the header, which says when and where, nor what the end line says of
    the process that wrote it."""
    if path.suffix != ".jsonl":
        return path.read_bytes()
    *lines, end = path.read_text().splitlines()[1:]
    end = json.loads(end)
    return [*(lines if exact else [json.loads(line)["key"] for line in lines]), end.get("end"), end.get("records")]


def leftovers(folder, exact):
    """Files by name, but for inputs, for logs, which say how often a cell was begun, and for what an undisturbed cell
    took."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path: str(path.relative_to(folder)) for path in files}
    return {
        name: content_of(path, exact)
        for path, name in names.items()
        if not name.startswith("in/") and not name.endswith((".log", ".time.json"))
    }


def differences(expected, found):
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            yield f"{name} is missing"
        elif name not in expected:
            yield f"{name} is left over"
        elif expected[name] != found[name]:
            yield f"{name} differs"


def stop(process, sent):
    """Sends the signal and waits; returns what is wrong with how the program ended, if anything."""
    process.send_signal(sent)
    try:
        errors = process.communicate(timeout=SECONDS_TO_END)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"{sent.name} did not end it"
    # Before it takes signals, they act by default. One that comes with the last record changes nothing.
    if process.returncode in (0, STOPPED, -sent):
        return None
    return f"{sent.name}: exit code {process.returncode}: {errors.strip()}"


def disturbed(stuffed, workload, folder, times, draw):
    """Gives the command until it ends by itself, and disturbs it up to `times` times. Returns how often, and what went
    wrong."""
    done, faults = 0, []
    for _ in range(TRIES):
        process = start(stuffed, workload.arguments(folder))
        seconds, sent = draw()
        try:
            # A last try is left alone.
            errors = process.communicate(timeout=seconds if done < times else None)[1]
        except subprocess.TimeoutExpired:
            faults += filter(None, [stop(process, sent)])
            done += 1
            continue
        if process.returncode != 0:
            faults.append(f"exit code {process.returncode}: {errors.strip()}")
        return done, faults
    return done, [*faults, f"gets nowhere: stopped {TRIES} times"]


def attack(stuffed, workload, kills, dice, signals=(signal.SIGKILL,)):
    """Disturbs the command so often, over as many runs as that takes; yields what went wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        template, whole = pathlib.Path(scratch) / "template", pathlib.Path(scratch) / "whole"
        (template / "in").mkdir(parents=True)
        workload.prepare(stuffed, template)
        shutil.copytree(template, whole)
        begin = time.monotonic()
        run(stuffed, workload.arguments(whole))
        seconds = time.monotonic() - begin
        expected = leftovers(whole, workload.exact)
        done = 0
        while done < kills:
            folder = pathlib.Path(scratch) / "run"
            shutil.copytree(template, folder)
            more, faults = disturbed(
                stuffed, workload, folder, kills - done, lambda: (dice.uniform(0, seconds), dice.choice(signals))
            )
            done += more
            for fault in [*faults, *differences(expected, leftovers(folder, workload.exact))]:
                yield f"after {done} kills: {fault}"
            shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stuffed", type=pathlib.Path, default=ROOT / "build" / "stuffed", help="the program")
    parser.add_argument("--kills", type=int, default=40, help="of each subcommand")
    parser.add_argument("--only", default="", help=f"some of {','.join(WORKLOADS)}")
    parser.add_argument("--signals", default="KILL", help="drawn from at random: KILL,TERM,INT,HUP,USR1")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chosen = arguments.only.split(",") if arguments.only else list(WORKLOADS)
    unknown = [name for name in chosen if name not in WORKLOADS]
    if unknown:
        parser.error(f"{', '.join(unknown)}: not among {', '.join(WORKLOADS)}")
    signals = [signal.Signals[f"SIG{name}"] for name in arguments.signals.split(",")]
    failed = 0
    for name in chosen:
        begin = time.monotonic()
        dice = random.Random(f"{arguments.seed}{name}")
        found = list(attack(arguments.stuffed, WORKLOADS[name], arguments.kills, dice, signals))
        failed += len(found)
        print(f"{name}: {arguments.kills} kills in {time.monotonic() - begin:.0f} s, {len(found)} faults", flush=True)
        for fault in found:
            print(f"  {fault}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
