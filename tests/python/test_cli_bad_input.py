"""Bad input from outside: each kind ends with its exit code and one message that names the file."""

import io
import json
import os
import pathlib
import pickle
import shutil
import struct
import tempfile
import zipfile

import numpy as np
import pytest
from cli_support import DATA, GOLDEN, ROOT, needs_binary, refused, stuffed
from safetensors.numpy import load_file, save_file

pytestmark = needs_binary
HF, ORIGINAL = GOLDEN / "mamba2-hf", GOLDEN / "mamba2-original"
SCALE = "backbone.layers.1.mixer.D"  # a small tensor of the golden


@pytest.fixture
def model(tmp_path):
    """A sound checkpoint to damage."""
    folder = tmp_path / "model"
    shutil.copytree(HF, folder)
    return folder


def header_of(file: pathlib.Path) -> tuple[dict, bytes]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_header(file: pathlib.Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


# ---- safetensors ----


def truncate(file):
    file.write_bytes(file.read_bytes()[:-100])


def truncate_header(file):
    file.write_bytes(file.read_bytes()[:100])


def empty(file):
    file.write_bytes(b"")


def long_header(file):
    file.write_bytes(struct.pack("<Q", 1 << 40) + file.read_bytes()[8:])


def edit(change):
    def damage(file):
        header, data = header_of(file)
        change(header)
        write_header(file, header, data)

    return damage


def overlap(header):
    header[SCALE]["data_offsets"] = header["backbone.layers.0.mixer.D"]["data_offsets"]


def out_of_range(header):
    header[SCALE]["data_offsets"] = [1 << 40, (1 << 40) + 32]


def absurd(header):
    header[SCALE]["shape"] = [1 << 40, 1 << 40]


def unknown_dtype(header):
    header[SCALE]["dtype"] = "F7"


def git_lfs(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


SAFETENSORS = [
    (truncate, "truncated"),
    (truncate_header, "only 92 follow"),
    (empty, "empty"),
    (long_header, "header"),
    (edit(overlap), "overlap"),
    (edit(out_of_range), "truncated"),
    (edit(absurd), SCALE),
    (edit(unknown_dtype), "F7"),
    (git_lfs, "git-lfs"),
]


@pytest.mark.parametrize(("damage", "says"), SAFETENSORS, ids=lambda v: getattr(v, "__name__", None))
def test_damaged_safetensors(model, damage, says):
    damage(model / "model.safetensors")
    refused(stuffed("inspect", model), 3, model / "model.safetensors", says)


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen", "whole numbers"])
def test_tensors_that_do_not_belong(model, change):
    tensors = load_file(model / "model.safetensors")
    if change == "missing":
        del tensors[SCALE]
    elif change == "extra":
        tensors["backbone.layers.1.mixer.E"] = tensors[SCALE]
    elif change == "misshapen":
        tensors[SCALE] = np.ones(9, np.float32)
    else:
        tensors[SCALE] = np.ones(8, np.int32)
    save_file(tensors, model / "model.safetensors")
    name = "backbone.layers.1.mixer.E" if change == "extra" else SCALE
    for command in (["inspect", model], ["generate", "--model", model, "--prompt", "a", "--tokenizer", "bytes"]):
        refused(stuffed(*command), 3, model / "model.safetensors", name)


# ---- PyTorch files ----


def zip_with(file, change):
    """The same archive, its entries passed through change(name, data) -> (name, data, method)."""
    source = zipfile.ZipFile(io.BytesIO(file.read_bytes()))
    with zipfile.ZipFile(file, "w") as out:
        for entry in source.infolist():
            name, data, method = change(entry.filename, source.read(entry))
            out.writestr(zipfile.ZipInfo(name), data, method)


def deflate(file):
    zip_with(file, lambda name, data: (name, data, zipfile.ZIP_DEFLATED if name.endswith("/0") else zipfile.ZIP_STORED))


class Foreign:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def foreign_global(file):
    program = pickle.dumps({"backbone.norm_f.weight": Foreign()}, protocol=2)
    zip_with(file, lambda name, data: (name, program if name.endswith("data.pkl") else data, zipfile.ZIP_STORED))


def legacy(file):
    shutil.copy(DATA / "torch" / "legacy.pt", file)


def lost_storage(file):
    zip_with(file, lambda name, data: (name + "x" if name.endswith("/data/1") else name, data, zipfile.ZIP_STORED))


def short_storage(file):
    zip_with(file, lambda name, data: (name, data[:-2] if name.endswith("/data/1") else data, zipfile.ZIP_STORED))


TORCH = [
    (truncate, "truncated"),
    (empty, "empty"),
    (deflate, "compressed"),
    (foreign_global, "posix.system"),
    (legacy, "legacy"),
    (lost_storage, "lacks the storage"),
    (short_storage, "too few"),
]


@pytest.mark.parametrize(("damage", "says"), TORCH, ids=lambda v: getattr(v, "__name__", None))
def test_damaged_torch_files(tmp_path, damage, says):
    folder = tmp_path / "model"
    shutil.copytree(ORIGINAL, folder)
    file = folder / "pytorch_model.bin"
    damage(file)
    refused(stuffed("inspect", folder, cwd=tmp_path), 3, file, says)
    assert not (tmp_path / "pwned").exists(), "a pickle was executed"


def test_an_undamaged_archive_written_by_this_test_is_read(tmp_path):
    shutil.copytree(ORIGINAL, tmp_path / "model")
    zip_with(tmp_path / "model" / "pytorch_model.bin", lambda name, data: (name, data, zipfile.ZIP_STORED))
    assert stuffed("inspect", tmp_path / "model").returncode == 0


# ---- config.json, folders ----

CONFIGS = [
    ({"hidden_size": 65}, "hidden_size is 65"),
    ({"num_hidden_layers": 4}, "num_hidden_layers is 4"),
    ({"hidden_size": "64"}, 'hidden_size is "64"'),
    ({"vocab_size": 321}, "vocab_size is 321"),
    ({"vocab_size": 1 << 70}, "vocab_size is "),
    ({"n_groups": 0}, "n_groups is 0"),
    ({"state_size": 17}, "17"),
    ({"attn_layer_idx": [1]}, "attn_layer_idx"),
]


@pytest.mark.parametrize(("change", "says"), CONFIGS, ids=lambda v: str(v)[:40])
def test_a_config_that_contradicts_the_tensors(model, change, says):
    config = json.loads((model / "config.json").read_text())
    if "state_size" in change:
        del config["n_groups"]  # else the groups are the config's
    (model / "config.json").write_text(json.dumps(config | change))
    refused(stuffed("inspect", model), 3, model / "config.json", says)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": "\xff"}', b"\x00", b""])
def test_a_config_that_is_no_json_object(model, content):
    (model / "config.json").write_bytes(content)
    refused(stuffed("inspect", model), 3, model / "config.json")


def test_no_model_there(tmp_path):
    refused(stuffed("inspect", tmp_path / "absent"), 3, tmp_path / "absent")
    refused(stuffed("inspect", tmp_path), 3, tmp_path, "model.safetensors", "pytorch_model.bin")
    (tmp_path / "notes.txt").write_text("hello")
    refused(stuffed("inspect", tmp_path / "notes.txt"), 3, tmp_path / "notes.txt", "neither")


def test_a_relative_that_is_not_supported(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file({"emb.weight": np.ones((8, 4), np.float32), "blocks.0.att.time_decay": np.ones(4, np.float32)}, file)
    refused(stuffed("inspect", file), 3, file, "RWKV-4")


# ---- tokens and texts ----


def ppl(out, *more):
    return stuffed("ppl-by-length", "--model", HF, "-o", out, *more)


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (np.array([[1, 2, 320]]), "320"),
        (np.array([[1, -2, 3]]), "-2"),
        (np.array([[0.5, 1.0]], np.float32), "Float"),
        (np.array([[[1, 2]]]), "3 axes"),
        (np.array([[1]]), "0 targets"),
    ],
    ids=["beyond", "negative", "floats", "three axes", "one token"],
)
def test_bad_token_files(tmp_path, tokens, says):
    file = tmp_path / "ids.safetensors"
    save_file({"tokens": tokens}, file)
    refused(ppl(tmp_path / "x.jsonl", "--tokens", file), 3, file.name, says)
    if says.lstrip("-").isdigit():
        refused(stuffed("generate", "--model", HF, "--tokens", file), 3, file.name, says)


def test_a_token_file_without_the_tensor_or_damaged(tmp_path):
    file = tmp_path / "ids.safetensors"
    save_file({"other": np.array([[1, 2, 3]])}, file)
    refused(ppl(tmp_path / "x.jsonl", "--tokens", file), 3, file, "tokens")
    truncate(file)
    refused(ppl(tmp_path / "x.jsonl", "--tokens", file), 3, file)


@pytest.mark.parametrize("name", ["small_neox.json", "small_spm.json"])
def test_text_that_is_not_utf8(tmp_path, name):
    text = tmp_path / "text.txt"
    text.write_bytes(b"ab\xffcd")
    refused(stuffed("tokenize", "--tokenizer", DATA / "tokenizers" / name, text), 3, text, "byte 2", "UTF-8")


@pytest.mark.parametrize(
    ("line", "says"), [(b"{", "line 2"), (b'{"a":1}', "text"), (b'{"text":1}', "text"), (b'{"text":"\xff"}', "line 2")]
)
def test_bad_jsonl(tmp_path, line, says):
    file = tmp_path / "books.jsonl"
    file.write_bytes(b'{"text":"abcd"}\n' + line + b"\n")
    done = ppl(tmp_path / "x.jsonl", "--jsonl", file, "--tokenizer", "bytes")
    refused(done, 3, file, says)


def test_a_prompt_file_that_is_not_utf8(tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(b"ab\xffcd")
    tokenizer = DATA / "tokenizers" / "small_spm.json"
    done = stuffed("generate", "--model", HF, "--tokenizer", tokenizer, "--prompt-file", text)
    refused(done, 3, text, "byte 2", "UTF-8")


def test_missing_texts(tmp_path):
    for flag in ("--text", "--jsonl", "--tokens"):
        refused(ppl(tmp_path / "x.jsonl", flag, tmp_path / "absent", "--tokenizer", "bytes"), 3, tmp_path / "absent")
    refused(stuffed("tokenize", "--tokenizer", "bytes", tmp_path / "absent"), 3, tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"{", "JSON"),
        (b"{}", "BPE"),
        (b'{"model":{"type":"WordPiece"}}', "WordPiece"),
        (b"1 'a' 1\n", "single byte"),
        (b"1 'a' 2\n", "line 1"),
        (b"1 a 1\n", "line 1"),
        (b"\x0a\xff\xff", "SentencePiece"),
    ],
)
def test_bad_tokenizers(tmp_path, content, says):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    text = tmp_path / "text.txt"
    text.write_text("ab")
    refused(stuffed("tokenize", "--tokenizer", file, text), 3, file, says)


def test_a_tokenizer_of_another_model(tmp_path):
    vocabulary = DATA / "tokenizers" / "small_neox.json"
    text = tmp_path / "text.txt"
    text.write_text("ab" * 50)
    refused(ppl(tmp_path / "x.jsonl", "--text", text, "--tokenizer", vocabulary), 3, vocabulary, "320")


# ---- our own files ----


def test_bad_saved_states(tmp_path):
    state = tmp_path / "a.state"
    made = stuffed(
        "generate",
        "--model",
        HF,
        "--tokenizer",
        "bytes",
        "--prompt",
        "ab",
        "--max-new-tokens",
        "2",
        "--save-state",
        state,
    )
    assert made.returncode == 0, made.stderr

    def load(file, *more):
        return stuffed("generate", "--model", HF, "--tokenizer", "bytes", "--load-state", file, *more)

    assert load(state).returncode == 0
    refused(load(state, "--dtype", "bf16"), 3, state, "dtype")
    refused(load(state, "--mitigation", "clip_insert:max=1"), 3, state, "mitigations")
    refused(load(HF / "model.safetensors"), 3, HF / "model.safetensors", "saved state")
    refused(load(tmp_path / "absent"), 3, tmp_path / "absent")
    header, data = header_of(state)
    header["__metadata__"]["position"] = "-1"
    write_header(state, header, data)
    refused(load(state), 3, state, "position")
    header["__metadata__"]["position"] = "9x"
    write_header(state, header, data)
    refused(load(state), 3, state, "position")
    truncate(state)
    refused(load(state), 3, state)


def test_bad_journals(tmp_path):
    tokens, out = tmp_path / "ids.safetensors", tmp_path / "run.jsonl"
    save_file({"tokens": np.ones((2, 40), np.int64)}, tokens)
    assert ppl(out, "--tokens", tokens).returncode == 0
    lines = out.read_bytes().splitlines(keepends=True)
    for content, says in [
        (b"dear diary\n", "line 1"),
        (b'{"schema":"x"}\n', "line 1"),
        (lines[0] + b"{\n" + b"".join(lines[1:]), "line 2"),
        (lines[0] + lines[1] + lines[1], "two records"),
        (b"".join(lines) + lines[1], "after the end"),
        (lines[0].replace(b'"version":1', b'"version":99'), "version 99"),
    ]:
        out.write_bytes(content)
        refused(ppl(out, "--tokens", tokens), 3, out, says)
        assert out.read_bytes() == content, "a file that is not understood is left alone"
    exported = stuffed("export", "--format", "paper", out, "-o", tmp_path / "exported")
    refused(exported, 3, out)


# ---- wrong usage ----


@pytest.mark.parametrize(
    "arguments",
    [
        ["ppl-by-length", "--tokens", "x", "-o", "x.jsonl", "--length", "0"],
        ["ppl-by-length", "--tokens", "x", "-o", "x.jsonl", "--segment", "0"],
        ["ppl-by-length", "--tokens", "x", "-o", "x.jsonl", "--bucket", "0"],
        ["ppl-by-length", "--tokens", "x", "-o", "x.jsonl", "--length", "8Q"],
        ["ppl-by-length", "--tokens", "x", "-o", "x.jsonl", "--length", "99999999999G"],
        ["ppl-by-length", "--tokens", "x", "-o", "x.jsonl", "--dtype", "f16"],
        ["ppl-by-length", "--tokens", "x", "-o", "x.jsonl", "--device", "tpu"],
        ["ppl-by-length", "--tokens", "x", "-o", "x.jsonl", "--mitigation", "wishful_thinking"],
        ["ppl-by-length", "--tokens", "x", "--text", "y", "-o", "x.jsonl"],
        ["passkey", "--lengths", "0", "-o", "x.jsonl"],
        ["passkey", "--lengths", "1K..2K", "-o", "x.jsonl"],
        ["passkey", "--lengths", "1K", "--depths", "0", "-o", "x.jsonl"],
        ["generate", "--prompt", "a", "--segment", "0"],
        ["generate", "--prompt", "a", "--temperature", "0"],
        ["generate", "--prompt", "a", "--tokens", "b"],
    ],
    ids=lambda arguments: " ".join(arguments)[:60],
)
def test_wrong_usage(tmp_path, arguments):
    done = stuffed(arguments[0], "--model", HF, *arguments[1:], cwd=tmp_path)
    assert done.returncode == 2, f"{done.returncode}: {done.stderr}"
    assert done.stderr.startswith("stuffed: ") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "content", "code", "says"),
    [
        ("ppl-by-length", 'segmnet = "64"\n', 2, "segmnet"),
        ("generate", "[table]\nprompt = 1\n", 2, "table"),
        ("passkey", "lengths = 2020-01-01\n", 2, "lengths"),
        ("tokenize", "tokenizer = \n", 3, "line 1"),
        ("ppl-by-length", "length = 0\n", 2, "length"),
    ],
)
def test_bad_config_files(tmp_path, command, content, code, says):
    config = tmp_path / "run.toml"
    config.write_text(content)
    done = stuffed(command, "--config", config)
    assert done.returncode == code, done.stderr
    assert says in done.stderr, done.stderr
    if says != "length":
        assert str(config) in done.stderr, done.stderr


@pytest.mark.parametrize("place", ["model.safetensors", "config.json", "shard", "weights", "run.toml"])
def test_a_pipe_or_device_where_a_model_reads_a_file(tmp_path, model, place):
    """Neither waits for a writer nor reads without end."""
    generate = ["generate", "--model", model, "--tokenizer", "bytes", "--prompt", "a"]
    if place == "shard":
        names = load_file(model / "model.safetensors")
        (model / "model.safetensors").unlink()
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, "shard")}))
    file = (model if place in ("model.safetensors", "config.json", "shard") else tmp_path) / place
    commands = [["inspect", model], generate]
    if place == "weights":
        commands = [["inspect", file], [*generate[:2], file, *generate[3:]]]
    elif place == "run.toml":
        commands = [["ppl-by-length", "--config", file]]
    for kind, make in {"pipe": os.mkfifo, "device": lambda path: os.symlink("/dev/zero", path)}.items():
        file.unlink(missing_ok=True)
        make(file)
        for command in commands:
            refused(stuffed(*command), 3, file, f"a {kind} where a regular file was expected")


def test_shard_names_that_no_file_can_have(model):
    names = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    for shard in ["a" * 5000, "", "..", "sub/a", "a\0b", 3]:
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, shard)}))
        refused(stuffed("inspect", model), 3, model / "model.safetensors.index.json", "shard")


def test_a_config_file_that_is_not_there(tmp_path):
    done = stuffed("ppl-by-length", "--config", tmp_path / "absent.toml")
    assert done.returncode == 3 and str(tmp_path / "absent.toml") in done.stderr, done.stderr


# ---- places that cannot be written ----


def outputs(place, tokens):
    """Every command that writes a file, told to write `place`."""
    return {
        "ppl-by-length": ["--model", HF, "--tokens", tokens, "-o", place],
        "passkey": [
            "--model",
            HF,
            "--tokenizer",
            "bytes",
            "--lengths",
            "512",
            "--depths",
            "1",
            "--trials",
            "1",
            "-o",
            place,
        ],
        "generate": [
            "--model",
            HF,
            "--tokenizer",
            "bytes",
            "--prompt",
            "a",
            "--max-new-tokens",
            "1",
            "--save-state",
            place,
        ],
        "tokenize": ["--tokenizer", "bytes", ROOT / "LICENSE", "-o", place],
        "train": [
            "--model-config",
            json.dumps(TINY),
            "--text",
            ROOT / "LICENSE",
            "--steps",
            "1",
            "--length",
            "8",
            "--batch",
            "1",
            "--window",
            "8",
            "-o",
            place,
        ],
        "state-stats": ["--model", HF, "--tokens", tokens, "--stride", "8", "-o", place],
        "retention": ["--model", HF, "--tokens", tokens, "--points", "2", "-o", place],
        "bench scan": [
            *("--family", "mamba2", "--device", "cpu", "--tokens", "8", "--repeats", "1", "--no-ceilings", "-o", place),
        ],
        "merge": [GOLDEN / "results" / "ppl_by_length.v1.jsonl", "-o", place],
        "export": ["--format", "csv", GOLDEN / "results" / "retention.v1.jsonl", "-o", place],
        "tokenize --shards": [place, "--tokenizer", "bytes", ROOT / "LICENSE"],
    }


TINY = {"hidden_size": 8, "num_hidden_layers": 1, "head_dim": 4, "state_size": 4, "vocab_size": 256}
WRITERS = list(outputs("", ""))


@pytest.fixture
def tokens(tmp_path):
    file = tmp_path / "ids.safetensors"
    save_file({"tokens": np.ones((1, 40), np.int64)}, file)
    return file


@pytest.mark.parametrize("command", WRITERS)
def test_a_place_that_takes_no_files_is_exit_code_7(tokens, command):
    place = "/proc/stuffed/x.jsonl"
    done = stuffed(*command.split(), *outputs(place, tokens)[command])
    refused(done, 7, "/proc/stuffed")


@pytest.mark.parametrize("command", ["ppl-by-length", "passkey"])
def test_a_full_disk_is_exit_code_7(tokens, command):
    refused(stuffed(command, *outputs("/dev/full", tokens)[command]), 7, "/dev/full")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", HF],
        ["tokenize", "--tokenizer", "bytes", ROOT / "LICENSE"],
        ["generate", "--model", HF, "--tokenizer", "bytes", "--prompt", "a", "--max-new-tokens", "2"],
        ["passkey", "--tokenizer", "bytes", "--lengths", "512", "--dry-run"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_standard_output_on_a_full_disk_is_exit_code_7(arguments):
    with open("/dev/full", "w") as full:
        refused(stuffed(*arguments, stdout=full), 7, "output")


@pytest.mark.parametrize("command", WRITERS)
def test_a_read_only_folder_is_exit_code_7(command):
    with tempfile.TemporaryDirectory() as base:
        top = pathlib.Path(base)
        file, folder = top / "ids.safetensors", top / "locked"
        save_file({"tokens": np.ones((1, 40), np.int64)}, file)
        folder.mkdir()
        for path, mode in ((top, 0o755), (file, 0o644), (folder, 0o555)):
            path.chmod(mode)
        who = {"user": 65534} if os.geteuid() == 0 else {}  # the superuser may write anywhere
        if who and stuffed("--version", **who).returncode != 0:
            pytest.skip("the binary is not executable for others")
        refused(stuffed(*command.split(), *outputs(folder / "x.jsonl", file)[command], **who), 7, folder)
