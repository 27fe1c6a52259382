"""scripts/make/make_corpus.py on a source of a few files: what is joined, held out, and packed."""

import gzip
import io
import json
import pathlib
import sys
import tarfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts" / "make"))
import make_corpus  # noqa: E402

FILES = {
    "drivers/net/a.c": "a" * 60,
    "drivers/net/b/c.c": "c" * 60,
    "drivers/gpu/d.h": "d" * 150,
    "fs/ext4/e.c": "e" * 20,
    "fs/f.c": "f" * 500,
    "README": "not taken",
    "drivers/net/logo.png": "not taken",
}


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(make_corpus, "HELD_OUT_BYTES", 100)
    monkeypatch.setattr(make_corpus, "PACKED_BYTES", 60)
    kernel = tmp_path / "kernel.tar.xz"
    with tarfile.open(kernel, "w:xz") as archive:
        for name, text in FILES.items():
            member = tarfile.TarInfo(f"linux-source-6.1/{name}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    handbook = tmp_path / "html" / "de-DE"
    handbook.mkdir(parents=True)
    (handbook / "one.html").write_text("<p>Ein Wort</p>")

    def make(name, held_out):
        arguments = ["make_corpus", "--kernel", kernel, "--handbook", handbook.parent, "--held-out", held_out]
        monkeypatch.setattr(sys, "argv", [*map(str, arguments), str(tmp_path / name)])
        make_corpus.main()
        return tmp_path / name

    return make


def documents(folder, pattern):
    lines = [line for path in sorted(folder.glob(pattern)) for line in gzip.decompress(path.read_bytes()).splitlines()]
    return {document["name"]: document for document in map(json.loads, lines)}


def test_whole_subsystems_are_held_out_and_joins_are_recorded(corpus):
    folder = corpus("out", 2)
    held_out, train = documents(folder, "held_out.jsonl.gz"), documents(folder, "train-*.jsonl.gz")
    assert set(held_out) == {"drivers/gpu", "drivers/net"}
    assert held_out["drivers/net"]["files"] == ["drivers/net/a.c", "drivers/net/b/c.c"]
    assert held_out["drivers/net"]["text"] == "a" * 60 + "\n" + "c" * 60
    assert set(train) == {"fs", "fs/ext4", "debian-handbook/de-DE"}
    assert train["debian-handbook/de-DE"]["text"] == "Ein Wort\n"
    assert len(list(folder.glob("train-*.jsonl.gz"))) > 1


def test_equal_packages_give_equal_bytes(corpus):
    first, second = corpus("first", 1), corpus("second", 1)
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_source_of_too_few_large_subsystems_is_said(corpus):
    with pytest.raises(SystemExit, match="only 2 subsystems"):
        corpus("out", 3)
