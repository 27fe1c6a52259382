"""A Mamba-2 of random weights as a Hugging Face folder and as GGUF, for cpu.py.

    scripts/bench/cpu_model.py hf FOLDER [--width 768 --layers 24 --state 128 --head 64 --vocab 50288 --seed 1]
    scripts/bench/cpu_model.py gguf FOLDER OUT.gguf --dtype f32|bf16        (needs the packages gguf and safetensors)

The weights are spread so that a wrong model shows: the logits have a standard deviation above 1, so the losses of
two models that differ anywhere differ token by token. GGUF holds the matrices in the dtype and the rest in f32.
"""

import argparse
import json
from pathlib import Path

import numpy as np

EPS = 1e-5
CONV = 4


def random_tensors(width, layers, state, head, vocab, seed):
    """Yields (name, f32 array) under Hugging Face's names: x [T] -> in_proj rows z, x, B, C, dt; one B/C group."""
    rng = np.random.default_rng(seed)
    inner = 2 * width
    heads, channels = inner // head, inner + 2 * state

    def normal(*shape, std):
        return rng.standard_normal(shape, dtype=np.float32) * np.float32(std)

    yield "backbone.embeddings.weight", normal(vocab, width, std=0.05)
    for layer in range(layers):
        prefix = f"backbone.layers.{layer}."
        step = np.exp(rng.uniform(np.log(1e-3), np.log(0.1), heads))
        yield prefix + "norm.weight", 1 + normal(width, std=0.1)
        yield prefix + "mixer.in_proj.weight", normal(inner + channels + heads, width, std=width**-0.5)
        yield prefix + "mixer.conv1d.weight", normal(channels, 1, CONV, std=0.4)
        yield prefix + "mixer.conv1d.bias", normal(channels, std=0.1)
        yield prefix + "mixer.dt_bias", (step + np.log(-np.expm1(-step))).astype(np.float32)
        yield prefix + "mixer.A_log", np.log(rng.uniform(1, 16, heads)).astype(np.float32)
        yield prefix + "mixer.D", 1 + normal(heads, std=0.1)
        yield prefix + "mixer.norm.weight", 1 + normal(inner, std=0.1)
        yield prefix + "mixer.out_proj.weight", normal(width, inner, std=0.5 * inner**-0.5)
    yield "backbone.norm_f.weight", 1 + normal(width, std=0.1)


def write_hf(folder, width, layers, state, head, vocab, seed):
    """config.json and model.safetensors (f32, tied embeddings) as Mamba2ForCausalLM saves them."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = dict(random_tensors(width, layers, state, head, vocab, seed))
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["Mamba2ForCausalLM"],
        "model_type": "mamba2",
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_heads": 2 * width // head,
        "head_dim": head,
        "state_size": state,
        "n_groups": 1,
        "conv_kernel": CONV,
        "expand": 2,
        "vocab_size": vocab,
        "layer_norm_epsilon": EPS,
        "use_bias": False,
        "use_conv_bias": True,
        "rms_norm": True,
        "residual_in_fp32": True,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "chunk_size": 256,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


GGUF_NAMES = {
    "backbone.embeddings.weight": "token_embd.weight",
    "backbone.norm_f.weight": "output_norm.weight",
    "norm.weight": "attn_norm.weight",
    "mixer.in_proj.weight": "ssm_in.weight",
    "mixer.conv1d.weight": "ssm_conv1d.weight",
    "mixer.conv1d.bias": "ssm_conv1d.bias",
    "mixer.dt_bias": "ssm_dt.bias",
    "mixer.A_log": "ssm_a",
    "mixer.D": "ssm_d",
    "mixer.norm.weight": "ssm_norm.weight",
    "mixer.out_proj.weight": "ssm_out.weight",
}


def gguf_tensor(name, data):
    """What llama.cpp's mamba2 calls the tensor and how it wants it: A itself, A and D as columns, no unit axes."""
    layer, _, rest = name.removeprefix("backbone.layers.").partition(".")
    new_name = GGUF_NAMES[name] if name in GGUF_NAMES else f"blk.{layer}.{GGUF_NAMES[rest]}"
    if name.endswith("A_log"):
        data = -np.exp(data)
    if name.endswith(("A_log", ".D")):
        data = data.reshape(-1, 1)
    if name.endswith("conv1d.weight"):
        data = data.squeeze(1)
    if name.endswith("mixer.norm.weight"):
        data = data.reshape(1, -1)
    return new_name, np.ascontiguousarray(data)


def write_gguf(folder, out, dtype):
    import gguf
    from safetensors.numpy import load_file

    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(str(out), "mamba2")
    writer.add_context_length(2**20)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(config["num_heads"] * config["head_dim"])
    writer.add_ssm_state_size(config["state_size"])
    writer.add_ssm_time_step_rank(config["num_heads"])
    writer.add_ssm_group_count(config["n_groups"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype == "f32" else gguf.LlamaFileType.MOSTLY_BF16)
    for name, data in load_file(folder / "model.safetensors").items():
        is_matrix = data.ndim == 2
        new_name, data = gguf_tensor(name, data)
        if dtype == "bf16" and is_matrix:
            bf16 = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(new_name, gguf.quantize(data, bf16), raw_dtype=bf16)
        else:
            writer.add_tensor(new_name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    hf = commands.add_parser("hf")
    hf.add_argument("folder", type=Path)
    defaults = {"width": 768, "layers": 24, "state": 128, "head": 64, "vocab": 50288, "seed": 1}
    for name, value in defaults.items():
        hf.add_argument(f"--{name}", type=int, default=value)
    gguf = commands.add_parser("gguf")
    gguf.add_argument("folder", type=Path)
    gguf.add_argument("out", type=Path)
    gguf.add_argument("--dtype", choices=["f32", "bf16"], required=True)
    args = parser.parse_args()
    if args.command == "hf":
        write_hf(args.folder, args.width, args.layers, args.state, args.head, args.vocab, args.seed)
    else:
        write_gguf(args.folder, args.out, args.dtype)


if __name__ == "__main__":
    main()
