"""What a folder says is honoured or refused: keys of config.json, names behind prefixes, tied names in metadata."""

import json
import shutil
import struct
import zipfile

import numpy as np
import pytest
import stuffed_results
from cli_support import DATA, GOLDEN, ROOT, needs_binary, refused, stuffed
from safetensors.numpy import load_file, save_file

pytestmark = needs_binary
CASES = DATA / "configs"
BOUND_NATS = 2e-4  # on any token


def losses(model, tokens, tmp_path, *more):
    nll = tmp_path / "nll.safetensors"
    done = stuffed("ppl-by-length", "--model", model, "--tokens", tokens, "--bucket", "64", "--device", "cpu",
                   "--per-token", nll, "-o", tmp_path / "out.jsonl", "--overwrite", *more)
    assert done.returncode == 0, done.stderr
    return load_file(nll)["nll"], done.stderr


def assert_right(case, model, tmp_path, *more):
    ours, said = losses(model, CASES / case / "tokens.safetensors", tmp_path, *more)
    theirs = load_file(CASES / case / "expected.safetensors")["nll"]
    assert np.abs(ours - theirs).max() < BOUND_NATS
    return said


def read_raw(file):
    """name -> (dtype, shape, bytes): any type, bf16 too."""
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    data = data[8 + length :]
    return {name: (at["dtype"], at["shape"], data[slice(*at["data_offsets"])]) for name, at in header.items()}


def write_raw(tensors, file, metadata=None):
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def copy(folder, tmp_path, **changes):
    """The folder with other keys in its config; None takes one out."""
    here = tmp_path / "model"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(folder, here)
    path = here / "config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    for key, value in changes.items():
        config[key] = value
        if value is None:
            del config[key]
    path.write_text(json.dumps(config))
    return here


@pytest.mark.parametrize("case", ["falcon-mamba", "step-limit", "no-limit"])
def test_what_the_config_decides_is_upstreams(case, tmp_path):
    assert assert_right(case, CASES / case, tmp_path) == ""


def test_packed_token_shifts_and_the_eps_of_small_heads(tmp_path):
    """Heads of 32: RWKV-LM trains with 64e-5, flash-linear-attention computes 32 x norm_eps; which, is said."""
    said = assert_right("rwkv7-packed-mix", CASES / "rwkv7-packed-mix", tmp_path)
    assert said.count("warning: ") == 1 and "norm_eps" in said
    model = copy(CASES / "rwkv7-packed-mix", tmp_path)
    tensors = read_raw(model / "model.safetensors")
    for name in [name for name in tensors if name.endswith("attn.x_x")]:
        dtype, (six, width), raw = tensors[name]
        tensors[name] = (dtype, [six, 1, 1, width], raw)
    write_raw(tensors, model / "model.safetensors")
    assert_right("rwkv7-packed-mix", model, tmp_path)


@pytest.mark.parametrize("limit", ["[0.0, Infinity]", "[0.0, 1e308]", '[0.0, {"__float__": "Infinity"}]',
                                   "[null, null]", "null"])
def test_a_limit_of_steps_that_is_none(limit, tmp_path):
    model = copy(CASES / "no-limit", tmp_path, time_step_limit="HERE")
    path = model / "config.json"
    path.write_text(path.read_text().replace('"HERE"', limit))
    assert_right("no-limit", model, tmp_path)


def test_the_gated_norm_of_several_groups(tmp_path):
    model, tokens = CASES / "grouped-norm", CASES / "grouped-norm" / "tokens.safetensors"
    group, said = losses(model, tokens, tmp_path)
    assert said.count("warning: ") == 1 and "--gated-norm" in said
    header = stuffed_results.read(tmp_path / "out.jsonl")
    assert header.provenance["gated_norm"] == "group" and "--gated-norm" in header.provenance["model_warnings"][0]
    assert "warning" not in assert_right("grouped-norm", model, tmp_path, "--gated-norm", "whole")
    assert stuffed_results.read(tmp_path / "out.jsonl").config["gated_norm"] == "whole"
    # The folder's own key, and the command line against it.
    own = copy(model, tmp_path, stuffed_gated_norm="whole")
    assert "warning" not in assert_right("grouped-norm", own, tmp_path)
    again, said = losses(own, tokens, tmp_path, "--gated-norm", "group")
    assert np.array_equal(again, group) and said == ""
    refused(stuffed("inspect", copy(model, tmp_path, stuffed_gated_norm="both")), 3, "stuffed_gated_norm", '"both"')
    found = json.loads(stuffed("inspect", model, "--json").stdout)
    assert found["gated_norm"] == "group" and len(found["warnings"]) == 1
    done = stuffed("inspect", GOLDEN / "rwkv6-hf", "--gated-norm", "group")
    assert done.returncode == 2 and "rwkv6" in done.stderr


REFUSED = [
    ("mamba2-hf", {"hidden_act": "gelu"}, 'hidden_act is "gelu"'),
    ("mamba2-hf", {"rms_norm": False}, "rms_norm is false"),
    ("mamba2-hf", {"model_type": "bamba"}, 'model_type is "bamba"'),
    ("mamba2-hf", {"model_type": "mamba"}, 'model_type is "mamba"'),
    ("mamba2-hf", {"time_step_limit": 0.1}, "time_step_limit is 0.1"),
    ("mamba2-hf", {"time_step_limit": [0.5, 0.1]}, "time_step_limit is [0.5,0.1]"),
    ("mamba2-hf", {"time_step_limit": [0, 1, 2]}, "time_step_limit is [0,1,2]"),
    ("mamba2-hf", {"time_step_limit": [0, "inf"]}, "time_step_limit is"),
    ("mamba2-hf", {"tie_word_embeddings": False}, "lm_head.weight"),
    ("mamba2-hf", {"use_bias": True}, "use_bias is true"),
    ("mamba2-hf", {"use_conv_bias": False}, "use_conv_bias is false"),
    ("mamba2-hf", {"use_conv_bias": 1}, "use_conv_bias is 1"),
    ("mamba2-hf", {"layer_norm_epsilon": "1e-5"}, 'layer_norm_epsilon is "1e-5"'),
    ("mamba2-hf", {"layer_norm_epsilon": 1e300}, "layer_norm_epsilon"),
    ("mamba2-hf", {"norm_eps": 0.1}, "norm_eps is 0.1"),
    ("mamba2-hf", {"residual_in_fp32": "yes"}, "residual_in_fp32"),
    ("mamba2-hf", {"quantization_config": {"bits": 4}}, "quantization_config"),
    ("mamba2-hf", {"expand": 3}, "expand is 3"),
    ("mamba2-hf", {"ssm_cfg": {"dt_limit": [0, 1]}}, "ssm_cfg"),
    ("mamba2-hf", {"n_groups": 2}, "n_groups is 2"),
    ("mamba2-hf", {"n_groups": 5, "state_size": None}, "n_groups is 5"),
    ("mamba2-hf", {"state_size": 8}, "state_size is 8"),
    ("mamba2-hf", {"state_size": 5, "n_groups": None}, "state_size is 5"),
    ("mamba2-original", {"rms_norm": False}, "rms_norm is false"),
    ("mamba2-original", {"d_intermediate": 256}, "d_intermediate is 256"),
    ("mamba2-original", {"ssm_cfg": {"layer": "Mamba1", "ngroups": 2}}, 'ssm_cfg.layer is "Mamba1"'),
    ("mamba2-original", {"ssm_cfg": {"ngroups": 2, "rmsnorm": False}}, "ssm_cfg.rmsnorm is false"),
    ("mamba2-original", {"ssm_cfg": {"ngroups": 2, "dt_limit": 3}}, "ssm_cfg.dt_limit is 3"),
    ("mamba2-original", {"ssm_cfg": 3}, "ssm_cfg is 3"),
    ("mamba2-original", {"ssm_cfg": {"ngroups": 4, "d_state": 32}}, "ssm_cfg.ngroups is 4"),
    ("mamba2-original", {"ssm_cfg": {"ngroups": 2, "d_state": 7}}, "ssm_cfg.d_state is 7"),
    ("mamba2-original", {"tie_embeddings": "yes"}, 'tie_embeddings is "yes"'),
    ("mamba1-hf", {"hidden_act": "relu"}, 'hidden_act is "relu"'),
    ("mamba1-hf", {"mixer_rms_eps": 1e-6}, "mixer_rms_eps"),
    ("mamba1-hf", {"num_hidden_layers": 2}, "num_hidden_layers is 2"),
    ("mamba1-hf", {"tie_word_embeddings": False}, "lm_head.weight"),
    ("mamba1-original", {"ssm_cfg": {"bias": True}}, "ssm_cfg.bias is true"),
    ("mamba1-original", {"ssm_cfg": {"d_state": 8}}, "ssm_cfg.d_state is 8"),
    ("hgrn2-fla", {"hidden_act": "gelu"}, 'hidden_act is "gelu"'),
    ("hgrn2-fla", {"use_lower_bound": False}, "use_lower_bound is false"),
    ("hgrn2-fla", {"use_short_conv": True}, "use_short_conv is true"),
    ("hgrn2-fla", {"clamp_min": -3.0}, "clamp_min is -3"),
    ("hgrn2-fla", {"expand_ratio": 8}, "expand_ratio is 8"),
    ("hgrn2-fla", {"num_heads": 2}, "num_heads 2"),
    ("hgrn2-fla", {"tie_word_embeddings": "yes"}, 'tie_word_embeddings is "yes"'),
    ("hgrn2-fla", {"rms_norm_eps": 0.5}, "rms_norm_eps is 0.5"),
    ("hgrn2-fla", {"model_type": "hgrn"}, 'model_type is "hgrn"'),
    ("rwkv5-hf", {"layer_norm_epsilon": 0.1}, "layer_norm_epsilon is 0.1"),
    ("rwkv5-hf", {"model_type": "rwkv6"}, 'model_type is "rwkv6"'),
    ("rwkv5-hf", {"tie_word_embeddings": True}, "tie_word_embeddings is true"),
    ("rwkv6-hf", {"head_size": 32}, "head_size is 32"),
    ("rwkv6-fla", {"norm_eps": 1e-3}, "norm_eps is 0.001"),
    ("rwkv6-fla", {"norm_first": False}, "norm_first is false"),
    ("rwkv6-fla", {"hidden_act": "relu"}, 'hidden_act is "relu"'),
    ("rwkv6-fla", {"attn": {"layers": [0]}}, "attn is"),
]


@pytest.mark.parametrize(("golden", "change", "says"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_a_key_that_cannot_be_honoured_is_refused(golden, change, says, tmp_path):
    model = copy(GOLDEN / golden, tmp_path, **change)
    refused(stuffed("inspect", model), 3, model / "config.json", says)


def test_a_config_of_many_megabytes_is_refused(tmp_path):
    model = copy(GOLDEN / "mamba2-hf", tmp_path, no_such_key=[0] * (6 << 20))
    refused(stuffed("inspect", model), 3, model / "config.json", "more than the 16777216")


def test_lower_bounds_that_are_not_there(tmp_path):
    model = copy(GOLDEN / "hgrn2-fla", tmp_path)
    tensors = read_raw(model / "model.safetensors")
    del tensors["model.lower_bounds"]
    write_raw(tensors, model / "model.safetensors")
    refused(stuffed("inspect", model), 3, "use_lower_bound is true", "model.lower_bounds")


@pytest.mark.parametrize("golden", ["mamba2-hf", "mamba2-original", "mamba1-hf", "mamba1-original", "hgrn2-fla",
                                    "rwkv5-hf", "rwkv6-hf", "rwkv6-fla"])
def test_an_unknown_key_is_said_recorded_and_shown(golden, tmp_path):
    expected = json.loads(stuffed("inspect", GOLDEN / golden, "--json").stdout)
    assert expected["warnings"] == [] and expected["config"]["unknown_keys"] == []
    model = copy(GOLDEN / golden, tmp_path, no_such_key=3)
    done = stuffed("inspect", model, "--json")
    found = json.loads(done.stdout)
    assert found["config"]["unknown_keys"] == ["no_such_key"] and "no_such_key" in done.stderr
    assert "no_such_key" in stuffed("inspect", model).stdout
    tokens = GOLDEN / golden / "golden.safetensors"
    ours, said = losses(model, tokens, tmp_path, "--documents", "1")
    assert said.count("warning: ") == 1 and "no_such_key" in said
    header = stuffed_results.read(tmp_path / "out.jsonl")
    assert header.provenance["unknown_config_keys"] == ["no_such_key"]
    assert np.allclose(ours, load_file(tokens)["nll"], atol=1e-4)


def test_keys_that_published_conversions_keep_from_the_original(tmp_path):
    """state-spaces/mamba-*-hf hold both kinds; of one, the number of layers is right in the original's alone."""
    model = copy(GOLDEN / "mamba1-hf", tmp_path, d_inner=128, d_model=64, n_layer=3, fused_add_norm=True,
                 pad_vocab_size_multiple=8, rms_norm=True, ssm_cfg={}, num_hidden_layers=2)
    done = stuffed("inspect", model, "--json")
    assert done.returncode == 0 and done.stderr.count("warning: ") == 1, done.stderr
    found = json.loads(done.stdout)
    assert found["layout"] == "hf" and found["layers"] == 3
    assert len(found["warnings"]) == 1 and "num_hidden_layers is 2" in found["warnings"][0]


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "_forward_module.", "module._orig_mod.",
                                    "_orig_mod.module."])
def test_names_behind_what_wraps_a_model_for_training(prefix, tmp_path):
    for golden, layout in (("mamba2-hf", "hf"), ("hgrn2-fla", "fla"), ("rwkv6-fla", "fla")):
        model = copy(GOLDEN / golden, tmp_path)
        tensors = read_raw(model / "model.safetensors")
        write_raw({prefix + name: tensor for name, tensor in tensors.items()}, model / "model.safetensors")
        done = stuffed("inspect", model, "--json")
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["layout"] == layout and repr(prefix) in found["warnings"][0] and repr(prefix) in done.stderr
    tokens = GOLDEN / "rwkv6-fla" / "golden.safetensors"
    ours, _ = losses(model, tokens, tmp_path)
    assert np.allclose(ours, load_file(tokens)["nll"], atol=1e-4)


@pytest.mark.parametrize("kept", ["embedding", "head"])
def test_tied_weights_that_are_stored_under_one_name(kept, tmp_path):
    """As safetensors' save_model() writes them: the metadata gives the other name."""
    for golden, embedding in (("mamba2-hf", "backbone.embeddings.weight"), ("hgrn2-fla", "model.embeddings.weight")):
        model = copy(GOLDEN / golden, tmp_path, tie_word_embeddings=True)
        tensors = read_raw(model / "model.safetensors")
        tensors.pop("lm_head.weight", None)
        write_raw(tensors, model / "model.safetensors")
        tokens = GOLDEN / golden / "golden.safetensors"
        expected, _ = losses(model, tokens, tmp_path)
        names = {"embedding": embedding, "head": "lm_head.weight"}
        other = names["head" if kept == "embedding" else "embedding"]
        tensors[names[kept]] = tensors.pop(embedding)
        write_raw(tensors, model / "model.safetensors", {"format": "pt", other: names[kept]})
        ours, said = losses(model, tokens, tmp_path)
        assert np.array_equal(ours, expected) and said == ""


def test_the_tokenizer_decides_which_rows_are_padding(tmp_path):
    """One of 259 ids, in the folder of a model of 320 rows: the others take no part in any loss."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(0x100 + i) for i in range(len(others))]
    added = [{"id": 256 + i, "content": f"<extra_{i}>", "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i in range(3)]
    tokenizer = {"version": "1.0", "added_tokens": added, "normalizer": {"type": "NFC"},
                 "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
                 "post_processor": None, "decoder": {"type": "ByteLevel"},
                 "model": {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []}}
    model = copy(GOLDEN / "mamba2-hf", tmp_path)
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    found = stuffed("inspect", model, "--json")
    assert json.loads(found.stdout)["vocab"] == 259, found.stdout
    save_file({"tokens": np.arange(2, 258)[None]}, tmp_path / "tokens")
    masked, _ = losses(model, tmp_path / "tokens", tmp_path)
    (model / "tokenizer.json").unlink()
    assert json.loads(stuffed("inspect", model, "--json").stdout)["vocab"] == 320
    whole, _ = losses(model, tmp_path / "tokens", tmp_path)
    assert (masked < whole).all()  # fewer rows to share the probability


def test_codestrals_own_folder(tmp_path):
    tensors = {"model." + name: tensor for name, tensor in load_file(CASES / "no-limit" / "model.safetensors").items()}
    embedding = tensors.pop("model.backbone.embeddings.weight")
    tensors["model.backbone.embedding.weight"] = tensors["model.lm_head.weight"] = embedding
    save_file(tensors, tmp_path / "consolidated.safetensors")
    params = {"dim": 32, "n_layers": 2, "vocab_size": 256, "n_groups": 1, "rms_norm": True, "residual_in_fp32": True,
              "fused_add_norm": True, "pad_vocab_size_multiple": 1, "tie_embeddings": False, "model_type": "mamba"}
    (tmp_path / "params.json").write_text(json.dumps(params))
    assert assert_right("no-limit", tmp_path, tmp_path) == ""
    shutil.copy(DATA / "tokenizers" / "small_spm.json", tmp_path / "tokenizer.model.v3")
    found = json.loads(stuffed("inspect", tmp_path, "--json").stdout)
    assert found["layout"] == "codestral" and found["tokenizer"]["source"].endswith("tokenizer.model.v3")


def test_a_bit_that_rotted_in_a_zip(tmp_path):
    for golden in ("mamba2-original", "rwkv6-pth"):
        here = tmp_path / golden
        shutil.copytree(GOLDEN / golden, here)
        file = next(path for path in here.iterdir() if path.suffix in (".bin", ".pth"))
        data = bytearray(file.read_bytes())
        entry = max(zipfile.ZipFile(file).infolist(), key=lambda entry: entry.file_size)
        name_bytes, extra_bytes = struct.unpack_from("<HH", data, entry.header_offset + 26)
        data[entry.header_offset + 30 + name_bytes + extra_bytes + entry.file_size // 2] ^= 0x40
        file.write_bytes(data)
        tokens = ["--tokens", GOLDEN / golden / "golden.safetensors", "--max-new-tokens", "1", "--device", "cpu"]
        refused(stuffed("generate", "--model", here, *tokens), 3, file, "CRC-32")


# ---- train ----

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "head_dim": 16, "state_size": 16}


def train(config, folder, *more, steps=1):
    return stuffed("train", "--model-config", json.dumps(config), "-o", folder, "--text", ROOT / "README.md", "--steps",
                   steps, "--length", "32", "--batch", "2", "--window", "64", "--warmup", "0", "--decay", "0",
                   "--device", "cpu", *more)


def test_what_a_new_models_config_names_is_in_the_model(tmp_path):
    asked = {**TINY, "vocab_size": 256, "tie_word_embeddings": False, "time_step_limit": [0.01, 0.1],
             "layer_norm_epsilon": 0.1, "use_bias": True, "use_conv_bias": False, "expand": 4, "hidden_act": "silu",
             "residual_in_fp32": False, "n_groups": 2, "conv_kernel": 3, "chunk_size": 32, "time_step_min": 0.01,
             "bos_token_id": 0, "initializer_range": 0.1, "rescale_prenorm_residual": False}
    done = train(asked, tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "config.json").read_text())
    assert {key: written.get(key) for key in asked} == asked
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["lm_head.weight"].shape == (256, 32) and "backbone.layers.0.mixer.conv1d.bias" not in tensors
    assert tensors["backbone.layers.0.mixer.in_proj.bias"].size > 0
    assert tensors["backbone.layers.0.mixer.out_proj.weight"].shape == (32, 128)
    assert 0.09 < tensors["backbone.embeddings.weight"].std() < 0.11


NOT_IN_A_NEW_MODEL = [
    ({"no_such_key": 3}, "no_such_key"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"rms_norm": False}, "rms_norm"),
    ({"dtype": "bfloat16"}, "dtype"),
    ({"model_type": "mamba"}, "model_type"),
    ({"use_bias": 1}, "use_bias"),
    ({"expand": 3, "num_heads": 4}, "num_heads"),
    ({"time_step_limit": 0.1}, "time_step_limit"),
]


@pytest.mark.parametrize(("change", "says"), NOT_IN_A_NEW_MODEL, ids=lambda v: v if isinstance(v, str) else "")
def test_what_a_new_model_cannot_have_is_refused(change, says, tmp_path):
    done = train({**TINY, **change}, tmp_path / "out")
    assert done.returncode == 2 and says in done.stderr, done.stderr


@pytest.mark.parametrize("extra", [{}, {"time_step_limit": [0.01, 0.1], "layer_norm_epsilon": 1e-3, "use_bias": True,
                                        "tie_word_embeddings": False}])
def test_transformers_reads_a_trained_model_of_two_groups_to_equal_losses(extra, tmp_path):
    torch = pytest.importorskip("torch", reason="STUFFED_LIBTORCH names a LibTorch without Python's torch")
    import transformers  # after torch, which it needs

    assert train({**TINY, "n_groups": 2, **extra}, tmp_path / "m", steps=40).returncode == 0
    assert json.loads((tmp_path / "m" / "config.json").read_text())["stuffed_gated_norm"] == "whole"
    text = (ROOT / "CHANGELOG.md").read_bytes()[:600]
    tokens = np.frombuffer(text, np.uint8).astype(np.int64)[None]
    save_file({"tokens": tokens}, tmp_path / "tokens")
    ours, said = losses(tmp_path / "m", tmp_path / "tokens", tmp_path)
    assert said == ""
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens), use_cache=False).logits[0]
    theirs = torch.nn.functional.cross_entropy(logits[:-1], torch.from_numpy(tokens)[0, 1:], reduction="none").numpy()
    assert np.abs(ours[0] - theirs).max() < 1e-4


def test_a_model_trained_with_the_norm_by_group_is_saved_in_the_original_layout(tmp_path):
    done = train({**TINY, "n_groups": 2}, tmp_path / "group", "--gated-norm", "group", steps=5)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "group" / "config.json").read_text())
    assert config["d_model"] == 32 and config["ssm_cfg"]["ngroups"] == 2 and "hidden_size" not in config
    done = stuffed("inspect", tmp_path / "group", "--json")
    found = json.loads(done.stdout)
    assert found["layout"] == "original" and found["gated_norm"] == "group" and done.stderr == ""
    assert "backbone.embedding.weight" in load_file(tmp_path / "group" / "model.safetensors")
