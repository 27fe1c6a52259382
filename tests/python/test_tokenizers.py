"""`stuffed tokenize` against the upstream packages: real text in many scripts, random characters, random bytes."""

import json
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from rwkv.rwkv_tokenizer import TRIE_TOKENIZER
from tokenizer_texts import real_text

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "tokenizers"
BINARY = ROOT / "build" / "stuffed"
WORLD = Path(__import__("rwkv").__file__).parent / "rwkv_vocab_v20230424.txt"
MISTRAL = Path(__import__("mistral_common").__file__).parent / "data" / "tokenizer.model.v1"
SIZE = 10_000_000


def ours(tokenizer, data, tmp_path, *flags):
    path = tmp_path / "text"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    command = [BINARY, "tokenize", "--tokenizer", tokenizer, path, *flags]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def random_text(seed, characters):
    """Code points of all planes, more of the lower ones, among spaces and combining marks; no surrogates."""
    rng = random.Random(seed)
    limits = (0x80, 0x250, 0x3000, 0x10000, 0x110000)
    marks = [chr(c) for c in (*range(0x300, 0x370), *range(0x1100, 0x1200), 0x20, 0x20, 0x20, 0xA0, 0xAC00)]
    points = (
        rng.choice(marks) if rng.random() < 0.3 else chr(rng.randrange(rng.choice(limits))) for _ in range(characters)
    )
    return "".join(c for c in points if not 0xD800 <= ord(c) < 0xE000)


def every_character():
    """Behind a letter, a digit and a space: all of planes 0 to 3, and of the others every 61st code point."""
    points = [*range(0xD800), *range(0xE000, 0x40000), *range(0x40000, 0x110000, 61), *range(0xE0000, 0xE0200)]
    return "".join(f"a{chr(c)}1{chr(c)} {chr(c)}!" for c in points)


@pytest.fixture(scope="session")
def text():
    result = real_text(SIZE)
    assert len(result.encode()) > 0.9 * SIZE, "found too little text; install debian-handbook"
    ranges = {"Latin": "aé", "Cyrillic": "я", "Greek": "λ", "Arabic": "ل", "kana": "の", "Han": "的", "Hangul": "한"}
    missing = [name for name, letters in ranges.items() if not any(letter in result for letter in letters)]
    assert not missing, f"the text lacks {missing}"
    return result


PUBLISHED_NEOX = Path(os.environ.get("STUFFED_TOKENIZERS", ".")) / "20B_tokenizer.json"  # not ours to keep here
NEOX = [DATA / "small_neox.json"] + ([PUBLISHED_NEOX] if PUBLISHED_NEOX.is_file() else [])


@pytest.mark.parametrize("path", NEOX, ids=lambda path: path.name)
def test_neox_real_text(path, text, tmp_path):
    assert ours(path, text, tmp_path) == tokenizers.Tokenizer.from_file(str(path)).encode(text).ids


@pytest.mark.parametrize("path", NEOX, ids=lambda path: path.name)
def test_neox_every_character(path, tmp_path):
    sample = every_character()
    assert ours(path, sample, tmp_path) == tokenizers.Tokenizer.from_file(str(path)).encode(sample).ids


@pytest.mark.parametrize("seed", range(3))
def test_neox_random_characters(seed, tmp_path):
    sample = random_text(seed, 200_000)
    for path in NEOX:
        assert ours(path, sample, tmp_path) == tokenizers.Tokenizer.from_file(str(path)).encode(sample).ids


def test_spm_json_real_text_and_random(text, tmp_path):
    path = DATA / "small_spm.json"
    upstream = tokenizers.Tokenizer.from_file(str(path))
    for sample in (text[:2_000_000], random_text(7, 200_000)):
        assert ours(path, sample, tmp_path) == upstream.encode(sample).ids


@pytest.fixture(scope="session")
def mistral():
    return sentencepiece.SentencePieceProcessor(model_file=str(MISTRAL))


def test_sentencepiece_real_text(mistral, text, tmp_path):
    assert ours(MISTRAL, text, tmp_path, "--literal-special") == [1, *mistral.encode(text)]


def test_sentencepiece_random_characters(mistral, tmp_path):
    for seed in range(3):
        sample = random_text(seed, 200_000)
        assert ours(MISTRAL, sample, tmp_path, "--literal-special", "--no-bos") == mistral.encode(sample)


def field(number, value):
    """One field of a protobuf message."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    value = int(value) if isinstance(value, bool) else value
    kind, value = (0, value) if isinstance(value, int) else (2, value.encode() if isinstance(value, str) else value)

    def varint(n):
        return bytes([n & 0x7F | 0x80]) + varint(n >> 7) if n > 0x7F else bytes([n])

    return varint(number << 3 | kind) + (varint(value) if kind == 0 else varint(len(value)) + value)


NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def spm_model(pieces, dummy_prefix=True, extra_whitespaces=True, suffix=False, byte_fallback=True, kind=2):
    """A tokenizer.model of (piece, score, type), behind the usual three and the 256 bytes."""
    first = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    first += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)] if byte_fallback else []
    model = b"".join(field(1, field(1, p) + field(2, float(s)) + field(3, t)) for p, s, t in first + pieces)
    trainer = field(3, kind) + field(24, suffix) + field(35, byte_fallback)
    normalizer = field(1, "identity") + field(3, dummy_prefix) + field(4, not extra_whitespaces)
    return model + field(2, trainer) + field(3, normalizer)


def random_pieces(rng, **more):
    """Words over few letters, so that they overlap; many of the same score."""
    letters = "ab▁é日."
    words = {"".join(rng.choices(letters, k=rng.randrange(2, 6))) for _ in range(120)}
    pieces = [(letter, -99.0, NORMAL) for letter in letters]
    return pieces + [(word, -float(rng.randrange(30)), more.get("kind", NORMAL)) for word in sorted(words)]


def random_spm(name, rng):
    pieces = random_pieces(rng)
    if name == "user-defined":  # one with a space spelled so is found, one with a plain space is not
        own = ["x", "ab", "▁b", "a b", "日é", "bab▁a", "▁▁"]
        pieces = [p for p in pieces if p[0] not in own] + [(p, 0.0, USER_DEFINED) for p in own]
        pieces += [(p, -1.0, NORMAL) for p in ("xa", "bx", "xabx")]
    if name == "unused":
        pieces = [(p, s, UNUSED if len(p) > 1 and rng.random() < 0.3 else t) for p, s, t in pieces]
    if name == "missing-character":
        pieces = [p for p in pieces if p[0] not in "aé"]
    if name == "control-character":  # the text's "." is not that token
        pieces = [p for p in pieces if "." not in p[0]] + [(".", 0.0, CONTROL)]
    flags = {
        "no-prefix": {"dummy_prefix": False},
        "suffix": {"suffix": True},
        "trimmed": {"extra_whitespaces": False},
        "no-bytes": {"byte_fallback": False},
        "unigram": {"kind": 1},
    }
    return spm_model(pieces, **flags.get(name, {}))


@pytest.mark.parametrize(
    "name",
    "plain no-prefix suffix trimmed no-bytes user-defined unused missing-character control-character unigram".split(),
)
def test_sentencepiece_models_of_all_kinds(name, tmp_path):
    rng = random.Random(name)
    (tmp_path / "tokenizer.model").write_bytes(random_spm(name, rng))
    upstream = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    texts = ["", " ", "  ", "a", " a", "a ", "▁", "▁ ab", "xabx", "a b", "ж", "aжb", "\0", "\n"]
    texts += ["".join(rng.choices("ab é日.xж", k=n)) for n in (5, 20, 100, 5000, 60_000)]
    texts += ["".join(rng.choices("ab", k=n)) for n in (16, 48, 49, 3000)] + ["ab" * 40_000]
    paths = [tmp_path / f"text{i}" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, newline="")
    command = [BINARY, "tokenize", "--tokenizer", tmp_path / "tokenizer.model", "--literal-special", "--no-bos"]
    lines = subprocess.run([*command, *paths], capture_output=True, check=True).stdout.splitlines()
    for text, line in zip(texts, lines, strict=True):
        assert json.loads(line) == upstream.encode(text), text[:100]


def converted(mistral, metaspace):
    """tokenizer.json as transformers converts such a model: older and newer form."""
    pieces = [(mistral.id_to_piece(i), i) for i in range(mistral.vocab_size())]
    ids = dict(pieces)
    merges = []
    for piece, id_ in pieces[259:]:
        local = [(piece[:i], piece[i:]) for i in range(1, len(piece)) if piece[:i] in ids and piece[i:] in ids]
        merges += [(id_, ids[a], ids[b], a, b) for a, b in local]
    merges.sort(key=lambda merge: (-mistral.get_score(merge[0]), merge[1], merge[2]))
    steps = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    added = [
        {"id": i, "content": pieces[i][0], "special": True, "normalized": False}
        | dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
        for i in range(3)
    ]
    space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None if metaspace else {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": space if metaspace else None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [[a, b] for *_, a, b in merges],
        },
    }


@pytest.mark.parametrize("metaspace", [False, True], ids=["prepend", "metaspace"])
def test_sentencepiece_as_json(mistral, metaspace, text, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(converted(mistral, metaspace)))
    upstream = tokenizers.Tokenizer.from_file(str(path))
    for sample in (text[:1_000_000], random_text(5, 50_000), "<s>a</s> b<unk>", " a", "▁a", "</s>x"):
        assert ours(path, sample, tmp_path) == upstream.encode(sample).ids


@pytest.fixture(scope="session")
def world():
    return TRIE_TOKENIZER(str(WORLD))


def test_world_real_text(world, text, tmp_path):
    assert ours(WORLD, text, tmp_path) == world.encode(text)


def test_world_random_bytes_and_characters(world, tmp_path):
    data = random.Random(3).randbytes(500_000)
    assert ours(WORLD, data, tmp_path) == world.encodeBytes(data)
    sample = random_text(4, 100_000)
    assert ours(WORLD, sample, tmp_path) == world.encode(sample)


def test_bytes(tmp_path):
    data = random.Random(4).randbytes(100_000)
    assert ours("bytes", data, tmp_path) == list(data)


@pytest.mark.parametrize("path", [DATA / "small_neox.json", MISTRAL], ids=lambda path: path.name)
def test_broken_utf8_is_exit_code_3_and_names_the_byte(path, tmp_path):
    (tmp_path / "text").write_bytes(b"abc\xe6\x97")
    command = [BINARY, "tokenize", "--tokenizer", path, tmp_path / "text"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 3
    assert "not UTF-8 at byte 3" in result.stderr


@pytest.mark.parametrize("path", [DATA / "small_neox.json", DATA / "small_spm.json"], ids=lambda path: path.name)
def test_decode_as_upstream(path, tmp_path):
    upstream = tokenizers.Tokenizer.from_file(str(path))
    rng = random.Random(6)
    for _ in range(5):
        ids = [rng.randrange(3, 2000) for _ in range(200)]
        (tmp_path / "ids").write_text(json.dumps(ids))
        command = [BINARY, "tokenize", "--tokenizer", path, "--decode", tmp_path / "ids"]
        assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == upstream.decode(ids)


def test_sentencepiece_decode_as_upstream(mistral, tmp_path):
    rng = random.Random(8)
    for _ in range(5):
        ids = [rng.randrange(3, 32000) for _ in range(200)]
        (tmp_path / "ids").write_text(json.dumps(ids))
        command = [BINARY, "tokenize", "--tokenizer", MISTRAL, "--decode", tmp_path / "ids"]
        assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == mistral.decode(ids)


def test_token_file(tmp_path):
    from safetensors import safe_open

    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"cd")
    out = tmp_path / "tokens.safetensors"
    command = [BINARY, "tokenize", "--tokenizer", "bytes", tmp_path / "a", tmp_path / "b", "-o", out]
    subprocess.run(command, check=True)
    with safe_open(out, "pt") as file:
        assert file.get_tensor("tokens").tolist() == [[97, 98], [99, 100]]
        assert file.metadata()["tokenizer"] == "bytes"
