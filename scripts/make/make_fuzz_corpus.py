#!/usr/bin/env python3
"""Writes the seeds of the fuzz targets that have no published files: tests/fuzz/corpus/TARGET.

    scripts/make/make_fuzz_corpus.py [FOLDER]

The checkpoints' shapes are those of tests/golden, their first layers alone.
"""
import argparse
import json
import pathlib
import re

import numpy
import safetensors
import safetensors.numpy
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
LAYERS = 2  # RWKV-7's second layer has tensors that its first has not


def shapes_of(folder: pathlib.Path) -> dict[str, list[int]]:
    if (folder / "model.safetensors").exists():
        with safetensors.safe_open(folder / "model.safetensors", "np") as file:
            return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}
    file = next(path for path in folder.iterdir() if path.suffix in (".bin", ".pth"))
    return {name: list(tensor.shape) for name, tensor in torch.load(file, weights_only=True).items()}


def first_layers(shapes: dict[str, list[int]], layers: int) -> dict[str, list[int]]:
    kept = {}
    for name, shape in shapes.items():
        index = re.search(r"(?:layers|blocks)\.(\d+)\.", name)
        if index is None or int(index[1]) < layers:
            kept[name] = [layers, *shape[1:]] if name == "model.lower_bounds" else shape
    return kept


def fla_rwkv7(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """RWKV-7 in flash-linear-attention's names, from BlinkDL's."""
    names = {"ln0": "pre_norm", "ln1": "attn_norm", "ln2": "ffn_norm", "att.ln_x": "attn.g_norm",
             "att.receptance": "attn.r_proj", "att.key": "attn.k_proj", "att.value": "attn.v_proj",
             "att.output": "attn.o_proj"}
    kept = {}
    for name, shape in shapes.items():
        name = name.replace("emb.", "model.embeddings.").replace("ln_out.", "model.norm.").replace("head.", "lm_head.")
        name = name.replace("blocks.", "model.layers.")
        for ours, theirs in names.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
        if lora := re.search(r"att\.([wavg])([012])$", name):
            part = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[lora[2]]
            name = name.replace(lora[0], f"attn.{lora[1]}_lora.lora.{part}")
            shape = shape[-1:] if lora[2] == "0" else shape[::-1]
        kept[name.replace(".att.", ".attn.")] = shape
    return kept


def write_shapes(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, tensors: dict[str, list[int]], config: object) -> None:
        text = json.dumps({"config": config, "tensors": tensors}, separators=(",", ":"))
        (folder / f"{name}.json").write_text(text + "\n")

    for golden in sorted(GOLDEN.iterdir()):
        if not (golden / "golden.safetensors").exists():
            continue
        layers = LAYERS if golden.name.startswith("rwkv7") else 1
        tensors = first_layers(shapes_of(golden), layers)
        config = None
        if (golden / "config.json").exists():
            config = json.loads((golden / "config.json").read_text())
            kept = ("vocab_size", "n_groups", "state_size", "expand_ratio", "num_heads", "ssm_cfg", "time_step_limit")
            config = {key: value for key, value in config.items() if key in kept}
        write(golden.name, tensors, config)
        if golden.name == "rwkv7-pth":
            write("rwkv7-fla", fla_rwkv7(tensors), None)
        if golden.name == "mamba2-original":
            write("mamba2-codestral", {f"model.{name}": shape for name, shape in tensors.items()}, config)
        if golden.name == "hgrn2-fla":
            fused = {name: [2 * shape[0], *shape[1:]] if "gate_proj" in name else shape
                     for name, shape in tensors.items() if "up_proj" not in name}
            write("hgrn2-fused-gate", fused, config)
            convolved = {f"model.layers.0.attn.{part}_conv1d.weight": [128, 1, 4] for part in "qfi"}
            write("hgrn2-short-conv", tensors | convolved, config)


def byte_alphabet() -> list[str]:
    """GPT-2's printable spelling of each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


def write_tokenizers(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)

    def write(name: str, description: dict) -> None:
        (folder / name).write_text(json.dumps(description, ensure_ascii=False, separators=(",", ":")) + "\n")

    merges = ["a t", "h e", "t he", "Ġ t", "Ġt he", "s h", "o e", "i n"]
    vocab = {token: i for i, token in enumerate(byte_alphabet() + [merge.replace(" ", "") for merge in merges])}
    neox = {"added_tokens": [{"id": 300, "content": "<|endoftext|>", "special": True, "normalized": False},
                             {"id": 301, "content": "  ", "special": False, "normalized": True}],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            "post_processor": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": merges}}
    write("neox.json", neox)
    pairs = {"type": "BPE", "vocab": vocab, "merges": [merge.split(" ") for merge in merges]}
    write("neox-pairs.json", neox | {"model": pairs, "normalizer": None})

    space = "▁"
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [f"{space} t", "h e", f"{space}t he", "a t", "日 本"]
    tokens += [space, *"thea日本", *(merge.replace(" ", "") for merge in merges)]
    bos = {"type": "TemplateProcessing",
           "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    special = [{"id": i, "content": token, "special": True, "normalized": False}
               for i, token in enumerate(["<unk>", "<s>", "</s>"])]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": space}
    vocab = {token: i for i, token in enumerate(tokens)}
    model = {"type": "BPE", "byte_fallback": True, "vocab": vocab, "merges": merges}
    old = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": space}, replace]}
    shared = {"added_tokens": special, "post_processor": bos, "model": model}
    write("spm.json", shared | {"normalizer": old, "pre_tokenizer": None})
    new = {"type": "Metaspace", "replacement": space, "prepend_scheme": "first", "split": False}
    write("spm-metaspace.json", shared | {"normalizer": None, "pre_tokenizer": new})


def write_vocabularies(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words = ["'ab' 2", "'a b' 3", '"it\'s" 4', r"'\n\n' 2", r"'\xe9' 2", r"b'\xe6\x97' 2", r"'\u65e5' 3", r"'\\\'' 2"]
    more = "".join(f"{257 + i} {word}\n" for i, word in enumerate(words))
    (folder / "more.txt").write_text(more)  # read behind the single bytes
    singles = "".join(f"{byte + 1} b'\\x{byte:02x}' 1\n" for byte in range(256))
    (folder / "whole.txt").write_text(singles + more)


def write_journals(folder: pathlib.Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    header = ('{"schema":"stuffed.fuzz","version":1,"config":{"length_tokens":8},'
              '"provenance":{"commit":"c0ffee"}}\n')
    record = '{"key":"document=0","nll_sum_nats":[0.5,1e-300,null],"finite":false}\n'
    (folder / "finished.jsonl").write_text(header + record + '{"end":true,"records":1}\n')
    (folder / "torn.jsonl").write_text(header + record + '{"key":"document=1","nll_')
    resumed = '{"resumed":true,"provenance":{"commit":"f00d"}}\n'
    (folder / "resumed.jsonl").write_text(header + record + resumed)
    (folder / "header.jsonl").write_text(header)
    (folder / "other.jsonl").write_text(header.replace("8", "16") + record)


def write_states(folder: pathlib.Path) -> None:
    """States of one layer of the golden mamba2-hf: 8 heads of 16 x 16, 160 convolution channels."""
    folder.mkdir(parents=True, exist_ok=True)
    tag = {"stuffed.state": "1", "position": "9", "model_hash": "c0ffee", "family": "mamba2", "dtype": "f32",
           "state_dtype": "f32", "mitigations": "none"}
    state = {"layers.0.recurrent": numpy.zeros((1, 8, 16, 16), numpy.float32),
             "layers.0.conv": numpy.zeros((1, 160, 3), numpy.float32),
             "last_hidden": numpy.zeros((1, 64), numpy.float32)}
    safetensors.numpy.save_file(state, folder / "plain.safetensors", tag)
    slots = {"layers.0.extra.window.k": numpy.ones((1, 2, 8, 16), numpy.float32)}
    safetensors.numpy.save_file(state | slots, folder / "slots.safetensors", tag)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", nargs="?", default=ROOT / "tests/fuzz/corpus", type=pathlib.Path)
    folder = parser.parse_args().folder
    write_shapes(folder / "shapes")
    write_tokenizers(folder / "tokenizer_json")
    write_vocabularies(folder / "world_vocabulary")
    write_journals(folder / "journal")
    write_states(folder / "saved_state")
    (folder / "config").mkdir(parents=True, exist_ok=True)
    for golden in sorted(GOLDEN.glob("*/config.json")):
        (folder / "config" / f"{golden.parent.name}.json").write_text(golden.read_text())


if __name__ == "__main__":
    main()
