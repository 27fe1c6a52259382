#!/usr/bin/env python3
"""Encoding speed of `stuffed tokenize` beside the upstream packages, one thread, on the same real text.

Usage: bench_tokenizers.py [--megabytes 10] [--neox tokenizer.json] [--repeat 3]

Prints the best of the repeats in MB/s (10^6 bytes of UTF-8 a second), loading excluded.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))

import mistral_common  # noqa: E402
import rwkv  # noqa: E402
import sentencepiece  # noqa: E402
import tokenizers  # noqa: E402
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER  # noqa: E402
from tokenizer_texts import real_text  # noqa: E402


def ours(tokenizer, path, repeat):
    command = [ROOT / "build" / "stuffed", "tokenize", "--literal-special", "--time", "--tokenizer", tokenizer]
    log = subprocess.run(
        [*command, *[path] * repeat], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True, text=True
    )
    return min(float(seconds) for seconds in re.findall(r"([\d.]+) s$", log.stderr, re.M))


def upstream(encode, text, repeat):
    seconds = []
    for _ in range(repeat):
        begin = time.perf_counter()
        encode(text)
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--neox", type=Path, default=ROOT / "tests" / "data" / "tokenizers" / "small_neox.json")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    text = real_text(int(arguments.megabytes * 1e6))
    world = Path(rwkv.__file__).parent / "rwkv_vocab_v20230424.txt"
    mistral = Path(mistral_common.__file__).parent / "data" / "tokenizer.model.v1"
    spm_json = ROOT / "tests" / "data" / "tokenizers" / "small_spm.json"
    neox_peer = tokenizers.Tokenizer.from_file(str(arguments.neox))
    spm_json_peer = tokenizers.Tokenizer.from_file(str(spm_json))
    spm_peer = sentencepiece.SentencePieceProcessor(model_file=str(mistral))
    # The rwkv package is plain Python and takes half a minute for 10 MB: once is enough.
    rows = (
        ("NeoX", arguments.neox, "tokenizers", neox_peer.encode, arguments.repeat),
        ("SentencePiece", mistral, "sentencepiece", spm_peer.encode, arguments.repeat),
        ("SentencePiece JSON", spm_json, "tokenizers", spm_json_peer.encode, 1),
        ("World", world, "rwkv", TRIE_TOKENIZER(str(world)).encode, 1),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        path.write_text(text, encoding="utf-8")
        size = path.stat().st_size / 1e6
        print(f"{size:.1f} MB of text, MB/s on one thread, best of {arguments.repeat}")
        for name, tokenizer, package, encode, repeat in rows:
            mine, theirs = ours(tokenizer, path, arguments.repeat), upstream(encode, text, repeat)
            print(
                f"{name:20} stuffed {size / mine:7.1f}   {package:13} {size / theirs:6.1f}   x{theirs / mine:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
