#!/usr/bin/env python3
"""Writes a corpus of several 100 MB from Debian's packages as packed JSON Lines: long documents to train on.

    scripts/setup --corpus
    scripts/make/make_corpus.py out/corpus
    build/stuffed tokenize --tokenizer bytes --shards out/shards --min-document 64K --jsonl out/corpus/train-*.jsonl.gz

A document is a folder of the kernel's source (its files in the order of their names, those of its subfolders apart) or
a language of the handbook. Each line has `text`, `name` and `files`, which says what was joined. Held out, in
held_out.jsonl.gz and nowhere else: the folders of eight or more whole subsystems, of 1.1 MB or more each with all below
them, so that a stream of 1M tokens is one document. The choice and the order are functions of the packages alone; the
SHA-256 of what is written is printed.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import sys
import tarfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from make_training_text import page_text  # noqa: E402

KERNEL = pathlib.Path("/usr/src/linux-source-6.1.tar.xz")
HANDBOOK = pathlib.Path("/usr/share/doc/debian-handbook/html")
TEXTS = (".c", ".h", ".S", ".rst", ".txt", ".dts", ".dtsi", ".py", ".sh")
HELD_OUT_BYTES = 1_100_000
PACKED_BYTES = 45_000_000  # a file is closed before it reaches 50 MB


def kernel_files(path: pathlib.Path):
    """(folder, name, text) of the source's text files, in the archive's order."""
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            parts = pathlib.PurePosixPath(member.name).parts[1:]  # without "linux-source-6.1"
            if member.isfile() and parts and parts[-1].endswith(TEXTS):
                text = archive.extractfile(member).read().decode("utf-8", errors="replace")
                yield "/".join(parts[:-1]), parts[-1], text


def by_folder(files) -> dict[str, list[tuple[str, str]]]:
    folders: dict[str, list[tuple[str, str]]] = {}
    for folder, name, text in files:
        folders.setdefault(folder, []).append((name, text))
    return {folder: sorted(folders[folder]) for folder in sorted(folders)}


def joined(name: str, parts: list[tuple[str, str]]) -> dict:
    return {"name": name, "files": [path for path, _ in parts], "text": "\n".join(text for _, text in parts)}


def held_out_roots(folders: dict[str, list[tuple[str, str]]], wanted: int) -> list[str]:
    """Subsystems, two levels deep, that are large enough: every so many of them, spread over the source."""
    sizes: dict[str, int] = {}
    for folder, parts in folders.items():
        root = "/".join(folder.split("/")[:2])
        if "/" in root:
            sizes[root] = sizes.get(root, 0) + sum(len(text.encode()) for _, text in parts)
    large = sorted(root for root, size in sizes.items() if HELD_OUT_BYTES <= size <= 4 * HELD_OUT_BYTES)
    if len(large) < wanted:
        raise SystemExit(f"make_corpus: only {len(large)} subsystems have {HELD_OUT_BYTES} bytes, {wanted} are wanted")
    return [large[i * len(large) // wanted] for i in range(wanted)]


def is_below(folder: str, root: str) -> bool:
    return folder == root or folder.startswith(f"{root}/")


def kernel_documents(folders, roots: list[str]):
    """(documents to train on, held-out ones)."""
    train = [joined(folder, parts) for folder, parts in folders.items() if not any(is_below(folder, r) for r in roots)]
    held_out = [
        joined(root, [(f"{folder}/{name}", text) for folder, parts in folders.items() if is_below(folder, root)
                      for name, text in parts])
        for root in roots
    ]  # fmt: skip
    return train, held_out


def handbook_documents(root: pathlib.Path) -> list[dict]:
    languages = sorted(path for path in root.glob("*") if path.is_dir())
    return [
        joined(f"debian-handbook/{path.name}", [(page.name, page_text(page)) for page in sorted(path.glob("*.html"))])
        for path in languages
    ]


class PackedLines:
    """JSON Lines in gzip files of a bounded size; equal documents give equal bytes."""

    def __init__(self, folder: pathlib.Path, stem: str, numbered: bool = True) -> None:
        self.folder, self.stem, self.numbered = folder, stem, numbered
        self.file = self.raw = None
        self.count = 0

    def write(self, document: dict) -> None:
        if self.file and self.numbered and self.raw.tell() >= PACKED_BYTES:
            self.close()
        if not self.file:
            name = f"{self.stem}-{self.count:02}" if self.numbered else self.stem
            self.path = self.folder / f"{name}.jsonl.gz"
            self.raw = self.path.open("wb")
            self.file = gzip.GzipFile(fileobj=self.raw, mode="wb", filename="", mtime=0)
            self.count += 1
        self.file.write((json.dumps(document, ensure_ascii=False) + "\n").encode("utf-8"))
        self.file.flush()

    def close(self) -> None:
        if self.file:
            self.file.close()
            self.raw.close()
            digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
            print(f"{self.path}: {self.path.stat().st_size} bytes, sha256 {digest}")
            self.file = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--kernel", type=pathlib.Path, default=KERNEL, help="the packed source of linux-source-6.1")
    parser.add_argument("--handbook", type=pathlib.Path, default=HANDBOOK, help="its folder of languages")
    parser.add_argument("--held-out", type=int, default=8, help="documents that no training file has")
    arguments = parser.parse_args()
    folders = by_folder(kernel_files(arguments.kernel))
    train, held_out = kernel_documents(folders, held_out_roots(folders, arguments.held_out))
    train += handbook_documents(arguments.handbook)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for documents, lines in ((train, PackedLines(arguments.folder, "train")),
                             (held_out, PackedLines(arguments.folder, "held_out", numbered=False))):  # fmt: skip
        for document in documents:
            lines.write(document)
        lines.close()
        size = sum(len(document["text"].encode()) for document in documents)
        print(f"{lines.stem}: {len(documents)} documents, {size} bytes of text")


if __name__ == "__main__":
    main()
