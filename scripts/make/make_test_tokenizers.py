#!/usr/bin/env python3
"""Trains the small tokenizers of tests/data/tokenizers and stores what the `tokenizers` package makes of some texts.

Usage: make_test_tokenizers.py TEXT... (UTF-8 files to train on; several scripts are best)

  small_neox.json        byte-level BPE in GPT-NeoX's configuration, merges as pairs
  small_neox_text.json   the same, merges as strings as older files have them
  small_spm.json         BPE with byte fallback in the configuration of a converted SentencePiece model
  vectors.json           texts with the ids of small_neox and small_spm
"""

import json
import random
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HOME = Path(__file__).resolve().parents[2] / "tests" / "data" / "tokenizers"


def train_neox(texts):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(text, normalized=False, special=True) for text in ("<|endoftext|>", "<|padding|>")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=3000, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(" " * n, normalized=True) for n in range(24, 1, -1)])
    return tokenizer


def train_spm(texts):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = [AddedToken(text, normalized=False, special=True) for text in ("<unk>", "<s>", "</s>")]
    tokens = special + [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=tokens, limit_alphabet=800, show_progress=False)
    words = (" " + word for text in texts for word in text.split(" "))
    tokenizer.train_from_iterator(words, trainer)
    description = json.loads(tokenizer.to_str())
    # Only these three are cut out of the text, as in published files; the byte tokens stay plain vocabulary.
    description["added_tokens"] = [t for t in description["added_tokens"] if t["id"] < 3]
    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    return Tokenizer.from_str(json.dumps(description))


def sample_texts(texts):
    rng = random.Random(0)
    yield from [
        "",
        " ",
        "  ",
        "   x",
        "x" + 25 * " " + "y",
        "x" + 26 * " " + "y",
        "foo  ",
        "  foo",
        "\n\n\nT",
        " \n\n ",
    ]
    yield from [
        "don't DON'T I'll we've 've' 's's it's  ok",
        "\t\tif x:\n        return 1\n",
        "x  \n  y",
        "\r\n",
        "A\0B",
    ]
    yield from ["<|endoftext|>Hello", "a<|endoftext|> b<|padding|>", "<|endoftext", "<s>", "a</s> b", "</s>x<unk>"]
    yield from ["e\u0301 \u0065\u0323\u0307 \u212b \ufb01", "\uac00 \u1100\u1161\u11a8 \u1100\u1161", "½² ①", "🙂👍🏽"]
    yield from ["\u200b\u00a0x", "\u3000x", "a\u2028b\u0085c\u180ed", "\ufffd\ufeff\uffff", "▁ ▁▁a", "日本語の 文章"]
    yield from ["a" * 5000, "ab" * 3000, " " * 1000 + "x", "\u0301" * 40 + "\u0323" * 40, "ก็" * 60 + " ที่"]
    for text in texts:
        for _ in range(6):
            begin = rng.randrange(max(1, len(text) - 300))
            yield text[begin : begin + rng.randrange(20, 300)]
    for _ in range(20):  # all planes
        points = [rng.randrange(0x110000) for _ in range(60)] + [rng.randrange(0x3000) for _ in range(60)]
        rng.shuffle(points)
        yield "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def main():
    if len(sys.argv) < 2 or "--help" in sys.argv:
        sys.exit(__doc__)
    texts = [Path(name).read_text(encoding="utf-8") for name in sys.argv[1:]]
    HOME.mkdir(parents=True, exist_ok=True)
    neox, spm = train_neox(texts), train_spm(texts)
    description = json.loads(neox.to_str())
    (HOME / "small_neox.json").write_text(json.dumps(description, ensure_ascii=False))
    description["model"]["merges"] = [" ".join(merge) for merge in description["model"]["merges"]]
    (HOME / "small_neox_text.json").write_text(json.dumps(description, ensure_ascii=False))
    (HOME / "small_spm.json").write_text(spm.to_str())
    vectors = [
        {"text": text, "neox": neox.encode(text).ids, "spm": spm.encode(text).ids} for text in sample_texts(texts)
    ]
    (HOME / "vectors.json").write_text(json.dumps(vectors, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
