#!/usr/bin/env python3
"""Writes the text the example models are trained on, and a part that is held out, from Debian's packages.

    scripts/setup --train
    scripts/make/make_training_text.py out/text

Takes the kernel's documentation (linux-doc-6.1), the Debian reference, the Debian administrator's handbook and
the King James Bible (bible-kjv), as plain text. Held out, and in no training file: every 50th kernel document, two
chapters of the handbook, and the Bible from Romans on. Both outputs are functions of the packages alone; their
SHA-256 are printed and end up in the journal of a training run.
"""
import argparse
import gzip
import hashlib
import html.parser
import pathlib
import re
import subprocess

DOCUMENTATION = pathlib.Path("/usr/share/doc/linux-doc-6.1/Documentation")
HANDBOOK = pathlib.Path("/usr/share/doc/debian-handbook/html/en-US")
REFERENCE = pathlib.Path("/usr/share/debian-reference/debian-reference.en.txt.gz")
HELD_OUT_CHAPTERS = {"network-infrastructure.html", "security.html"}


class VisibleText(html.parser.HTMLParser):
    """The words of a page, one block element a paragraph."""

    BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "li", "pre", "div", "td", "dt", "dd"}

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.hidden = 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style", "head")
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style", "head")
        if tag in self.BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def page_text(path: pathlib.Path) -> str:
    parser = VisibleText()
    parser.feed(path.read_text(encoding="utf-8"))
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", "".join(parser.parts)).strip() + "\n"


def bible(verses: str) -> str:
    """Verses as running text, without their numbers."""
    lines = subprocess.run(["bible", "-f", verses], capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join(re.sub(r"^\S+ ", "", line) for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    train: list[str] = []
    held_out: list[str] = []
    for number, path in enumerate(sorted(DOCUMENTATION.rglob("*.rst.gz"))):
        (held_out if number % 50 == 49 else train).append(gzip.decompress(path.read_bytes()).decode("utf-8"))
    for path in sorted(HANDBOOK.glob("*.html")):
        (held_out if path.name in HELD_OUT_CHAPTERS else train).append(page_text(path))
    train.append(gzip.decompress(REFERENCE.read_bytes()).decode("utf-8"))
    train.append(bible("Gen1:1-Acts28:31"))
    verses = bible("Rom1:1-Rev22:21")
    held_out.append(verses)

    for name, documents in (("train", train), ("held_out", held_out), ("held_out_bible", [verses])):
        data = "\n".join(documents).encode("utf-8")
        (folder / f"{name}.txt").write_bytes(data)
        print(f"{folder / name}.txt: {len(documents)} documents, {len(data)} bytes, sha256 "
              f"{hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
