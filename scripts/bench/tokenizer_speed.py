#!/usr/bin/env python3
"""Encoding speed of `stuffed tokenize` beside the upstream packages, one thread, on the same real text.

Usage: tokenizer_speed.py [--megabytes 2] [--neox tokenizer.json] [--only NAME] [--rounds 5] [--repeat 3]

Both sides are timed alike: the text is in memory and the tokenizer loaded before the clock starts, and it stops when
the ids are in memory. The sides take turns, a round each, so that a change of the machine's speed meets both. Prints
the median of all rounds in MB/s (10^6 bytes of UTF-8 per second), the slowest and fastest, and the ratio of medians.

--long-line MB instead encodes one line of that many megabytes and of a tenth, without a line feed in them, and prints
the time and the peak of resident memory for each, with what loading alone takes: the package is not run.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "python"))

import mistral_common  # noqa: E402
import rwkv  # noqa: E402
import sentencepiece  # noqa: E402
import tokenizers  # noqa: E402
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER  # noqa: E402
from tokenizer_texts import real_text  # noqa: E402

WORLD = Path(rwkv.__file__).parent / "rwkv_vocab_v20230424.txt"
MISTRAL = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
SPM_JSON = ROOT / "tests" / "data" / "tokenizers" / "small_spm.json"


def command(tokenizer, *files):
    return [ROOT / "build" / "stuffed", "tokenize", "--literal-special", "--time", "--tokenizer", tokenizer, *files]


def seconds_of(log):
    return [float(seconds) for seconds in re.findall(r"([\d.]+) s$", log, re.M)]


def ours(tokenizer, path, repeat):
    run = subprocess.run(
        command(tokenizer, *[path] * repeat), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, text=True
    )
    return seconds_of(run.stderr)


def upstream(encode, text, repeat):
    seconds = []
    for _ in range(repeat):
        begin = time.perf_counter()
        encode(text)
        seconds.append(time.perf_counter() - begin)
    return seconds


def compare(rows, text, arguments):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        path.write_text(text, encoding="utf-8")
        size = path.stat().st_size / 1e6
        print(f"{size:.1f} MB of text, MB/s on one thread: median (slowest-fastest)")
        for name, tokenizer, package, load, rounds in rows:
            encode, mine, theirs = load(), [], []
            for _ in range(rounds):
                mine += ours(tokenizer, path, arguments.repeat)
                theirs += upstream(encode, text, arguments.repeat if rounds > 1 else 1)
            ratio = statistics.median(theirs) / statistics.median(mine)
            print(
                f"{name:20} stuffed {speeds(size, mine)}   {package:13} {speeds(size, theirs)}   x{ratio:.2f}",
                flush=True,
            )


def speeds(size, seconds):
    median = size / statistics.median(seconds)
    return f"{median:6.1f} ({size / max(seconds):.1f}-{size / min(seconds):.1f})"


# A process counts the memory of the one it was forked from, so a small one has to do it.
MEASURE = """
import os, sys
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(pid, 0)
print(f"{usage.ru_maxrss} KiB", file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def peak_mb(arguments):
    """Seconds of encoding and peak resident MB (10^6 bytes) of one run of `stuffed`."""
    run = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if run.returncode != 0:
        sys.exit(f"{' '.join(map(str, arguments))} failed: {run.stderr}")
    return seconds_of(run.stderr)[0], int(re.search(r"(\d+) KiB$", run.stderr, re.M)[1]) * 1024 / 1e6


def long_line(rows, megabytes):
    text = re.sub(r"[\r\n]", "", real_text(10_000_000)).encode()
    text = text[:-4].decode(errors="ignore").encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "line"
        for name, tokenizer, *_ in rows:
            path.write_bytes(b"x")
            _, loaded = peak_mb(command(tokenizer, path))
            for size in (int(megabytes * 1e5), int(megabytes * 1e6)):
                line = (text * (size // len(text) + 1))[:size].decode(errors="ignore").encode()
                path.write_bytes(line)
                seconds, peak = peak_mb(command(tokenizer, path))
                print(
                    f"{name:20} {size / 1e6:6.1f} MB line  {seconds:7.3f} s  {size / 1e6 / seconds:6.1f} MB/s  peak "
                    f"{peak:6.0f} MB, {loaded:.0f} of it without the text: {(peak - loaded) / size * 1e6:.1f} MB a MB",
                    flush=True,
                )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--neox", type=Path, default=ROOT / "tests" / "data" / "tokenizers" / "small_neox.json")
    parser.add_argument("--only", help="the tokenizers whose name begins so")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--long-line", type=float, metavar="MB")
    arguments = parser.parse_args()

    def fast(path):  # without the offsets of tokens in the text, which `stuffed` does not make either
        def load():
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
            return lambda text: tokenizer.encode_batch_fast([text])[0].ids

        return load

    # The rwkv package is plain Python: one encoding is long enough to be sure.
    rows = [
        ("NeoX", arguments.neox, "tokenizers", fast(arguments.neox), arguments.rounds),
        (
            "SentencePiece",
            MISTRAL,
            "sentencepiece",
            lambda: sentencepiece.SentencePieceProcessor(model_file=str(MISTRAL)).encode,
            arguments.rounds,
        ),
        ("JSON SentencePiece", SPM_JSON, "tokenizers", fast(SPM_JSON), arguments.rounds),
        ("World", WORLD, "rwkv", lambda: TRIE_TOKENIZER(str(WORLD)).encode, 1),
        ("bytes", "bytes", "list(bytes)", lambda: lambda text: list(text.encode()), arguments.rounds),
    ]
    rows = [row for row in rows if row[0].startswith(arguments.only or "")]
    if arguments.long_line:
        long_line(rows, arguments.long_line)
    else:
        compare(rows, real_text(int(arguments.megabytes * 1e6)), arguments)


if __name__ == "__main__":
    main()
