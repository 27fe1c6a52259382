"""A family's name stands in its row and its own files alone: whatever else lists families reads the rows."""

import re

import pytest
from cli_support import FAMILIES, GOLDEN, ROOT, needs_binary, stuffed

SOURCES = [
    path
    for folder in ("src", "include", "kernels")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".cpp", ".h", ".inc", ".cu", ".cuh"} and not path.stem.endswith(("_test", "_fuzz"))
]
# `stuffed train` makes a Mamba-2 unless it is told otherwise.
CHOSEN = {"include/stuffed/train/trainer.h": {"mamba2"}}


def code_of(text: str) -> str:
    """Without comments, which may give examples."""
    strings_or_comments = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*.*?\*/', re.S)
    return strings_or_comments.sub(lambda match: match[0] if match[0].startswith('"') else " ", text)


def names_in(text: str) -> set[str]:
    """Families that the code names: as a whole string, as the beginning of a shape's name, or as an identifier."""
    code = code_of(text)
    strings = re.findall(r'"((?:\\.|[^"\\\n])*)"', code)
    words = re.findall(r"\w+", re.sub(r'"(?:\\.|[^"\\\n])*"', " ", code))
    return {
        family
        for family in FAMILIES
        if any(string == family or re.match(rf"{family}-[\w.]+$", string) for string in strings)
        or any(word.lower() == family or word.startswith(f"{family}_") for word in words)
    }


def is_its_own(path, family: str) -> bool:
    return path.parent == ROOT / "src" / "models" and path.name.startswith((f"{family}.", f"{family}_"))


def test_a_name_is_found_where_it_stands():
    assert names_in('if (family == "rwkv6") // of "mamba1"') == {"rwkv6"}
    assert names_in('{"mamba2-1.3b", 3}, Variant::Hgrn2') == {"mamba2", "hgrn2"}
    assert names_in('"  stuffed bench scan --family rwkv6,mamba1\\n"') == set()


def test_no_other_source_names_a_family():
    assert len(FAMILIES) >= 6 and len(SOURCES) > 100
    found = {}
    for path in SOURCES:
        name = str(path.relative_to(ROOT))
        if name == "src/models/families.inc":
            continue
        others = {family for family in names_in(path.read_text()) if not is_its_own(path, family)}
        if others - CHOSEN.get(name, set()):
            found[name] = others
    assert not found


@needs_binary
@pytest.mark.parametrize("command", [["verify"], ["bench", "scan"]])
def test_every_list_has_every_family(command):
    listed = re.search(r"--family\s+(\S+)", stuffed(*command, "--help").stdout)[1]
    for family in FAMILIES:
        assert re.search(rf"\b{family}\b", listed), listed


@needs_binary
def test_every_family_has_a_size_and_a_golden_checkpoint():
    shapes = re.search(r"--shape\s+(\S+)", stuffed("bench", "model", "--help").stdout)[1].split("|")
    for family in FAMILIES:
        assert f"{family}-tiny" in shapes
        assert list(GOLDEN.glob(f"{family}-*/golden.safetensors"))


@needs_binary
@pytest.mark.parametrize("command", [["verify", "--kernels"], ["bench", "scan"]])
def test_an_unknown_family_is_refused(command):
    done = stuffed(*command, "--family", "lstm")
    assert done.returncode == 2 and "lstm" in done.stderr and "hgrn2" in done.stderr, done.stderr
