#!/usr/bin/env python3
"""Speed and memory of stuffed on a CPU beside llama.cpp and transformers, on the same random weights in one run.

    python3 -m venv peers                                   # llama.cpp is built from source: some minutes
    CMAKE_ARGS="-DGGML_NATIVE=ON" peers/bin/pip install llama-cpp-python==0.3.36 gguf==0.19.0 safetensors==0.8.0
    scripts/bench/cpu.py --python peers/bin/python -o cpu.json

transformers (5.17.0, with torch 2.11.0) is taken from there or from the interpreter that runs this script. A peer found
in neither is listed as not installed; `--peers llama.cpp` leaves out transformers, which takes most of the time.

Makes a Mamba-2 of the 130M shape with random weights, as a Hugging Face folder and as GGUF. First the losses of
the same tokens must agree (mean within 1e-3 of ours in f32, 4e-3, one bf16 step, in bf16; token by token to a tenth of
their spread), else a peer is WRONG and is not compared. Then one after the other, again and again:

    score    T tokens in, T losses out: logits and cross entropy included, loading and a warm-up excluded
    decode   one token at a time, greedy, ms a step

Ratios are of neighbours in time, so that a machine that is busy now and then slows both. transformers is fed 512 tokens
at a time with its cache, at the fastest of some chunk sizes and at its default of 256, in f32 only, and only the first
--transformers-tokens of the stream: at 10 tokens/s all of them would take half an hour, and its cost a token is the
same at any place. Standard error says what has been measured.
Memory is the peak above the weights (the packed copy of the head counts) and above `stuffed --version`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[2]
STUFFED = Path(os.environ.get("STUFFED", ROOT / "build" / "stuffed"))
HERE = Path(__file__).resolve().parent
PEERS = ("llama.cpp", "transformers")
VOCAB = 50277  # columns that are words; the model's 50288 are padded, and padding is masked
PROMPT = 16
DEFAULT_CHUNK = 256  # transformers'
CHUNKS = (16, 32, 64, DEFAULT_CHUNK)
MEAN_BOUND = {"f32": 1e-3, "bf16": 4e-3}
TOKEN_BOUND = 0.1


def progress(line):
    print(line, file=sys.stderr, flush=True)


def run_measured(command, threads):
    """-> (lines of stdout with the second at which each came, seconds of the process, its peak RSS in bytes)."""
    begin = time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    # Standard error goes to a file: a full pipe would stop the child.
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, stderr=errors, env=environment)
        lines = [(line, time.perf_counter() - begin) for line in child.stdout]
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        child.stdout.close()
        if child.returncode != 0:
            errors.seek(0)
            raise RuntimeError(f"{command[0]} failed with {child.returncode}: {errors.read().decode()[-2000:]}")
    return lines, seconds, usage.ru_maxrss * 1024


class Stuffed:
    def __init__(self, model, folder, dtype, threads, ids, vocab):
        self.model, self.dtype, self.threads, self.folder = model, dtype, threads, folder
        self.name, self.peak, self.vocab = "stuffed", 0, vocab
        self.ids = folder / "ids.safetensors"
        save_file({"tokens": np.stack([ids, ids])}, self.ids)  # the first row warms up

    def options(self):
        return ["--model", self.model, "--device", "cpu", "--dtype", self.dtype, "--impl", "auto"]

    def score(self, tokens, _=None):
        """-> (seconds between the records of the two documents, the losses)"""
        sidecar = self.folder / "nll.safetensors"
        command = [STUFFED, "ppl-by-length", *self.options(), "--tokens", self.ids, "--length", tokens]
        command += ["--bucket", tokens, "-o", "-", "--per-token", sidecar]
        lines, _, self.peak = run_measured(command, self.threads)
        came = {json.loads(line).get("key"): second for line, second in lines}
        return came["document=1"] - came["document=0"], load_file(sidecar)["nll"][1]

    def decode(self, steps):
        """-> seconds a greedy step, measured inside the process: loading takes as long as a hundred steps."""
        results = self.folder / "decode.jsonl"
        command = [STUFFED, "bench", "model", *self.options(), "--phase", "decode", "--tokens", PROMPT, "--repeats", 1]
        command += ["--warmup", 1, "--decode-steps", steps, "--no-ceilings", "-o", results]
        run_measured(command, self.threads)
        records = [json.loads(line) for line in results.read_text().splitlines()]
        return next(r["ms_per_step"] for r in records if r.get("phase") == "decode-session") / 1e3

    def memory(self):
        """Bytes: peak of the last score, of --version, and of the weights as they are kept."""
        base = run_measured([STUFFED, "--version"], self.threads)[2]
        with safe_open(self.model / "model.safetensors", "np") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]
        width = {"f32": 4, "bf16": 2}[self.dtype]
        weights = sum(int(np.prod(shape)) * (width if len(shape) == 2 else 4) for shape in shapes)
        return {"peak": self.peak, "version": base, "weights": weights, "above": self.peak - base - weights}


class Missing(Exception):
    """The peer is in none of the interpreters."""


class Peer:
    """A worker process, cpu_peers.py; `chunk` is for transformers."""

    def __init__(self, kind, pythons, model, folder, threads, vocab):
        self.out, self.chunk, self.vocab = folder / f"{kind}.npy", None, vocab
        for python in pythons:
            command = [python, HERE / "cpu_peers.py", kind, model, folder / "ids.npy", "--threads", threads]
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
            self.process = subprocess.Popen(
                [str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            hello = self.read()
            if "name" in hello:
                self.name = hello["name"]
                return
            self.close()
        raise Missing(hello["missing"])

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self.process.wait()}")
        return json.loads(line)

    def ask(self, **request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.read()

    def score(self, tokens, chunk=None):
        request = {"tokens": tokens, "vocab": self.vocab, "out": str(self.out), "chunk": chunk or self.chunk}
        return self.ask(do="score", **request)["seconds"], np.load(self.out)

    def decode(self, steps):
        return self.ask(do="decode", steps=steps)["seconds"] / steps

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def agreement(ours, theirs, dtype):
    """How far the losses of the same tokens lie apart, relative: of the mean, and token by token."""
    ours, theirs = (x[: min(len(ours), len(theirs))].astype(np.float64) for x in (ours, theirs))
    mean = abs(theirs.mean() / ours.mean() - 1)
    tokens = np.sqrt(((theirs - ours) ** 2).mean()) / ours.std()
    good = bool(mean < MEAN_BOUND[dtype] and tokens < TOKEN_BOUND)
    return {"nll": float(theirs.mean()), "mean_error": float(mean), "token_error": float(tokens), "agrees": good}


def spread(values):
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "all": values}


def open_peers(args, dtype, model, folder):
    """-> ({label: (peer, tokens, chunk, losses or None)}, {label: why it is missing})"""
    contenders, missing = {}, {}
    for kind in args.peers:
        if kind == "transformers" and dtype != "f32":
            continue
        try:
            path = make_gguf(args, dtype, model, folder) if kind == "llama.cpp" else model
            peer = Peer(kind, args.pythons, path, folder, args.threads, args.true_vocab)
        except Missing as why:
            missing[kind] = str(why)
            continue
        if kind == "llama.cpp":
            contenders[peer.name] = (peer, args.tokens, None, None)
            continue
        few = min(args.tokens, args.transformers_tokens)
        peer.score(min(few, 64), CHUNKS[0])  # the first call of all is a warm-up
        scores = {}
        for chunk in CHUNKS:
            scores[chunk] = peer.score(few, chunk)
            progress(f"{peer.name}, chunk {chunk}: {few} tokens in {scores[chunk][0]:.1f} s")
        fastest = min(scores, key=lambda chunk: scores[chunk][0])
        for chunk in dict.fromkeys((fastest, DEFAULT_CHUNK)):
            contenders[f"{peer.name} chunk {chunk}, {few} tokens"] = (peer, few, chunk, scores[chunk][1])
    return contenders, missing


def make_gguf(args, dtype, model, folder):
    out = folder / f"{dtype}.gguf"
    for python in args.pythons:
        command = [python, HERE / "cpu_model.py", "gguf", model, out, "--dtype", dtype]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
        if done.returncode == 0:
            return out
        if "ModuleNotFoundError" not in done.stderr:
            raise RuntimeError(done.stderr)
    raise Missing(done.stderr.strip().splitlines()[-1])


def measure(args, dtype, model, folder, ids):
    """-> the record of one dtype, as it goes into the JSON file"""
    ours = Stuffed(model, folder, dtype, args.threads, ids, args.true_vocab)
    _, reference = ours.score(args.tokens)
    contenders, missing = open_peers(args, dtype, model, folder)
    rows = {label: {"missing": why} for label, why in missing.items()}
    for label, (peer, tokens, chunk, losses) in contenders.items():
        rows[label] = agreement(reference, peer.score(tokens, chunk)[1] if losses is None else losses, dtype)
        progress(f"{dtype}: {label} {'agrees' if rows[label]['agrees'] else 'is WRONG'}")
    rows = {"stuffed": {"nll": float(reference.mean())}, **rows}
    good = {label: c for label, c in contenders.items() if rows[label]["agrees"]}
    speed = {label: [] for label in ("stuffed", *good)}
    steps = {label: [] for label in ("stuffed", *(label for label in good if label.startswith("llama")))}
    for repeat in range(args.repeats):
        at = f"{dtype}: repeat {repeat + 1} of {args.repeats}:"
        speed["stuffed"].append(args.tokens / ours.score(args.tokens)[0])
        progress(f"{at} stuffed {speed['stuffed'][-1]:.0f} tokens/s")
        for label, (peer, tokens, chunk, _) in good.items():
            speed[label].append(tokens / peer.score(tokens, chunk)[0])
            progress(f"{at} {label} {speed[label][-1]:.0f} tokens/s")
        for label in steps if args.decode_steps else ():
            steps[label].append(1e3 * (good[label][0] if label in good else ours).decode(args.decode_steps))
            progress(f"{at} {label} {steps[label][-1]:.2f} ms a decode step")
    for key, values in (("tokens_per_second", speed), ("decode_ms", steps)):
        for label, each in values.items():
            if each:
                rows[label][key] = spread(each)
                pairs = zip(values["stuffed"], each, strict=True)
                faster = (lambda a, b: a / b) if key == "tokens_per_second" else (lambda a, b: b / a)
                rows[label][f"{key}_ratio"] = spread([faster(mine, theirs) for mine, theirs in pairs])
    for peer in {peer for peer, *_ in contenders.values()}:
        peer.close()
    return {"rows": rows, "memory_bytes": ours.memory()}


def table(args, dtype, record):
    lines = [f"{dtype}, {args.tokens} tokens, {args.threads} threads; median (least..most) of {args.repeats}; "]
    lines[0] += "ratio: how many times faster stuffed is, pair by pair"
    show = lambda s, digits: f"{s['median']:.{digits}f} ({s['least']:.{digits}f}..{s['most']:.{digits}f})"  # noqa: E731
    for label, row in record["rows"].items():
        if "missing" in row:
            lines.append(f"{label:40} not installed: {row['missing']}")
            continue
        agrees = "" if label == "stuffed" else f" (mean {row['mean_error']:.1e}, by token {row['token_error']:.1e})"
        line = f"{label:40} nll {row['nll']:.5f}{agrees}"
        if not row.get("agrees", True):
            lines.append(line + " WRONG, not compared")
            continue
        for key, unit, digits in (("tokens_per_second", "tokens/s", 0), ("decode_ms", "ms a decode step", 2)):
            if key in row:
                line += f"\n    {show(row[key], digits):28} {unit:17}"
                line += "" if label == "stuffed" else f" ratio {show(row[f'{key}_ratio'], 2)}"
        lines.append(line)
    mb = {key: value / 1e6 for key, value in record["memory_bytes"].items()}
    lines.append(
        f"stuffed's peak memory: {mb['peak']:.0f} MB, {mb['above']:.0f} above the weights ({mb['weights']:.0f}) "
        f"and `--version` ({mb['version']:.0f})"
    )
    return "\n".join(lines)


def machine():
    with open("/proc/cpuinfo") as info:
        cpu = next((line.split(":")[1].strip() for line in info if line.startswith("model name")), "unknown")
    version = subprocess.run([STUFFED, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg()[0], "stuffed": version}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--python", help="an interpreter that has peers; this one is tried after it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--transformers-tokens", type=int, default=512, help="the most transformers is fed (512)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", nargs="+", choices=["f32", "bf16"], default=["f32", "bf16"])
    parser.add_argument("--decode-steps", type=int, default=200, help="0: no decoding")
    parser.add_argument("--folder", help="where 1.3 GB of models are made (default: the system's temporary folder)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file with every single figure")
    for name, size in (("width", 768), ("layers", 24), ("state", 128), ("head", 64), ("vocab", 50288)):
        parser.add_argument(f"--{name}", type=int, default=size, help="of the model")
    args = parser.parse_args()
    args.pythons = [*([args.python] if args.python else []), sys.executable]
    args.true_vocab = VOCAB if args.vocab == 50288 else args.vocab

    record = {"schema": "stuffed.bench_cpu", "version": 1, "machine": machine()}
    names = ("threads", "tokens", "transformers_tokens", "repeats", "decode_steps")
    names += ("width", "layers", "state", "head", "vocab")
    record["config"] = {name: getattr(args, name) for name in names}
    record["dtypes"] = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        model = folder / "hf"
        shape = [f"--{key}={getattr(args, key)}" for key in ("width", "layers", "state", "head", "vocab")]
        # In a process of its own: what a parent once held counts as its children's peak.
        subprocess.run([sys.executable, HERE / "cpu_model.py", "hf", model, *shape], check=True)
        ids = np.random.default_rng(1).integers(0, args.true_vocab, max(args.tokens, PROMPT) + 1)
        np.save(folder / "ids.npy", ids)
        for dtype in args.dtype:
            record["dtypes"][dtype] = measure(args, dtype, model, folder, ids)
            print(table(args, dtype, record["dtypes"][dtype]), flush=True)
    if args.output:
        args.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
