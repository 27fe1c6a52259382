"""`stuffed train` from outside: one step beside its peers, kills, shards, what it refuses, what it leaves."""

import gzip
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import stuffed_results
from cli_support import FAMILIES, ROOT, STUFFED, needs_binary, refused, stuffed
from safetensors.numpy import load_file, save_file

pytestmark = needs_binary

LENGTH, WINDOW = 32, 64
TEXT = bytes((i * i // 5 + 3 * i) % 97 + 30 for i in range(WINDOW + 1))  # one window, so that each step has it
RATE = 1e-4
# One step that tells: two sequences, AdamW with decay and clipping.
STEP = ["--window", WINDOW, "--length", LENGTH, "--batch", 2, "--steps", 1, "--lr", RATE, "--last-lr", RATE,
        "--log-every", 1, "--device", "cpu"]  # fmt: skip

MODELS = {
    "mamba2": {"hidden_size": 32, "num_hidden_layers": 2, "head_dim": 16, "state_size": 16},
    "mamba1": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
    "hgrn2": {"hidden_size": 32, "num_hidden_layers": 2, "num_heads": 2, "intermediate_size": 48},
    "rwkv5": {"hidden_size": 32, "num_hidden_layers": 2, "head_size": 16},
    "rwkv6": {"hidden_size": 32, "num_hidden_layers": 2, "head_size": 16},
    "rwkv7": {"hidden_size": 32, "num_hidden_layers": 2, "head_dim": 16},
}


def new_model(folder, family, **more):
    text = folder.parent / f"{folder.name}.txt"
    text.write_bytes(TEXT)
    config = json.dumps({**MODELS[family], **more})
    arguments = ["--family", family, "--model-config", config, "--text", text, *STEP, "-o", folder]
    done = stuffed("train", *arguments)
    assert done.returncode == 0, done.stderr
    return folder


def shaken(folder, to):
    """The model with noise on all its weights: what begins as zero begins as something."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("train.jsonl", "checkpoint.safetensors"))
    rng = np.random.default_rng(1)
    tensors = load_file(folder / "model.safetensors")
    tensors = {
        name: (x + 0.05 * rng.standard_normal(x.shape)).astype(np.float32) for name, x in sorted(tensors.items())
    }
    save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


def our_step(start, folder):
    """(loss, weights after the step) of `stuffed train --init-from`."""
    text = folder.parent / "step.txt"
    text.write_bytes(TEXT)
    done = stuffed("train", "--init-from", start, "--text", text, *STEP, "-o", folder)
    assert done.returncode == 0, done.stderr
    run = stuffed_results.read(folder / "train.jsonl", "stuffed.train")
    return run.records["step=1"]["loss_nats"], load_file(folder / "model.safetensors")


def their_step(torch, parameters, loss_of, is_decayed):
    """The same of PyTorch's AdamW over named parameters."""
    tokens = torch.tensor(list(TEXT))
    rows = torch.stack([tokens[:LENGTH + 1], tokens[LENGTH:2 * LENGTH + 1]])
    groups = [{"params": [p for n, p in parameters.items() if is_decayed(n)], "weight_decay": 0.1},
              {"params": [p for n, p in parameters.items() if not is_decayed(n)], "weight_decay": 0.0}]  # fmt: skip
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.95), eps=1e-8)
    loss = loss_of(rows)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
    optimiser.step()
    return loss.item(), {name: p.detach().numpy() for name, p in parameters.items()}


def expect_equal_steps(ours, theirs, before):
    assert abs(ours[0] - theirs[0]) < 1e-6, (ours[0], theirs[0])
    moved = 0
    for name, expected in theirs[1].items():
        found = ours[1][name].reshape(expected.shape)
        assert np.abs(found - expected).max() < 1e-5, (name, np.abs(found - expected).max())
        moved += np.abs(found - before[name].reshape(expected.shape)).max() > 0.5 * RATE
    assert moved == len(theirs[1])  # each weight has taken its step


DECAYED = ("proj.weight", "embeddings.weight", "lm_head.weight")


@pytest.mark.parametrize(("family", "more"), [("mamba2", {}), ("mamba2", {"n_groups": 2}), ("mamba1", {})])
def test_a_step_is_transformers(family, more, tmp_path):
    torch = pytest.importorskip("torch", reason="STUFFED_LIBTORCH names a LibTorch without Python's torch")
    import transformers  # after torch, which it needs

    start = shaken(new_model(tmp_path / "new", family, **more), tmp_path / "start")
    model = transformers.AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32).train()
    parameters = {n: p for n, p in model.named_parameters() if n != "lm_head.weight"}

    def loss_of(rows):
        logits = model(rows[:, :-1], use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    theirs = their_step(torch, parameters, loss_of, lambda name: name.endswith(DECAYED))
    expect_equal_steps(our_step(start, tmp_path / "ours"), theirs, load_file(start / "model.safetensors"))


def rms_norm(torch, x, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def hgrn2_logits(torch, w, config, tokens):
    """The recurrence of HGRN-2 a token at a time, from its paper."""
    heads, expand = config["num_heads"], config["expand_ratio"]
    shares = torch.softmax(w["model.lower_bounds"], 0)
    bounds = torch.cumsum(shares, 0) - shares[0]
    x = w["model.embeddings.weight"][tokens]
    batch, length, width = x.shape
    for i in range(config["num_hidden_layers"]):
        layer = {k.split(f"layers.{i}.")[1]: v for k, v in w.items() if f"layers.{i}." in k}
        u = rms_norm(torch, x, layer["attn_norm.weight"], config["norm_eps"])
        project = lambda name, u=u, layer=layer: u @ layer[f"attn.{name}.weight"].T  # noqa: E731
        q, v = torch.nn.functional.silu(project("q_proj")), project("i_proj")
        forget = bounds[i] + (1 - bounds[i]) * torch.sigmoid(project("f_proj"))
        q, k, f = (t.view(batch, length, heads, expand) for t in (q, 1 - forget, forget))
        v = v.view(batch, length, heads, -1)
        state, outputs = torch.zeros(batch, heads, expand, width // heads), []
        for t in range(length):
            state = f[:, t, :, :, None] * state + k[:, t, :, :, None] * v[:, t, :, None, :]
            outputs.append(expand**-0.5 * torch.einsum("bhk,bhkv->bhv", q[:, t], state))
        y = torch.stack(outputs, 1).flatten(2)
        x = x + rms_norm(torch, y, layer["attn.g_norm.weight"], 1e-5) @ layer["attn.o_proj.weight"].T
        u = rms_norm(torch, x, layer["mlp_norm.weight"], config["norm_eps"])
        gate = torch.nn.functional.silu(u @ layer["mlp.gate_proj.weight"].T)
        x = x + (gate * (u @ layer["mlp.up_proj.weight"].T)) @ layer["mlp.down_proj.weight"].T
    return rms_norm(torch, x, w["model.norm.weight"], config["norm_eps"]) @ w["lm_head.weight"].T


def rwkv7_logits(torch, w, config, tokens):
    """The recurrence of RWKV-7 a token at a time, from its paper, in flash-linear-attention's names."""
    heads, size, eps = config["num_heads"], config["head_dim"], config["norm_eps"]
    functional = torch.nn.functional

    def norm(x, name):
        return functional.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], eps)

    def before(x):
        return functional.pad(x, (0, 0, 1, -1))

    x = norm(w["model.embeddings.weight"][tokens], "model.layers.0.pre_norm")
    batch, length, width = x.shape
    first_value = None
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        a = norm(x, p + "attn_norm")
        shift = before(a) - a
        mixed = {m: a + shift * w[p + f"attn.x_{m}"].flatten() for m in "rwkvag"}

        def lora(name, u, activation, p=p):
            inner = activation(u @ w[p + f"attn.{name}_lora.lora.0.weight"].T)
            bias = w.get(p + f"attn.{name}_lora.lora.2.bias")
            outer = inner @ w[p + f"attn.{name}_lora.lora.2.weight"].T
            return outer if bias is None else outer + bias

        r, k, v = (mixed[m] @ w[p + f"attn.{m}_proj.weight"].T for m in "rkv")
        if first_value is None:
            first_value = v
        else:
            v = v + (first_value - v) * torch.sigmoid(lora("v", mixed["v"], lambda u: u))
        decay = torch.exp(-0.606531 * torch.sigmoid(lora("w", mixed["w"], torch.tanh)))
        rate = torch.sigmoid(lora("a", mixed["a"], lambda u: u))
        gate = lora("g", mixed["g"], torch.sigmoid)
        erase = functional.normalize((k * w[p + "attn.k_k"].flatten()).view(batch, length, heads, size), dim=-1)
        k = k * (1 + (rate - 1) * w[p + "attn.k_a"].flatten())
        r, k, v, decay, rate = (t.view(batch, length, heads, size) for t in (r, k, v, decay, rate))
        state, outputs = torch.zeros(batch, heads, size, size), []  # [value, key]
        for t in range(length):
            gone = torch.einsum("bhvk,bhk->bhv", state, erase[:, t])
            state = (state * decay[:, t, :, None, :] - gone[..., None] * (erase * rate)[:, t, :, None, :]
                     + v[:, t, :, :, None] * k[:, t, :, None, :])  # fmt: skip
            outputs.append(torch.einsum("bhvk,bhk->bhv", state, r[:, t]))
        y = torch.stack(outputs, 1).view(batch * length, width)
        y = functional.group_norm(y, heads, w[p + "attn.g_norm.weight"], w[p + "attn.g_norm.bias"], size * eps)
        now = (r * k * w[p + "attn.r_k"]).sum(-1, keepdim=True) * v
        x = x + ((y.view(batch, length, width) + now.flatten(2)) * gate) @ w[p + "attn.o_proj.weight"].T
        b = norm(x, p + "ffn_norm")
        inner = torch.relu((b + (before(b) - b) * w[p + "ffn.x_k"].flatten()) @ w[p + "ffn.key.weight"].T) ** 2
        x = x + inner @ w[p + "ffn.value.weight"].T
    return norm(x, "model.norm") @ w["lm_head.weight"].T


@pytest.mark.parametrize(("family", "logits_of", "decayed"), [
    ("hgrn2", hgrn2_logits, DECAYED),
    ("rwkv7", rwkv7_logits, (*DECAYED, "lora.0.weight", "lora.2.weight", "key.weight", "value.weight")),
])  # fmt: skip
def test_a_step_is_that_of_a_loop_over_tokens(family, logits_of, decayed, tmp_path):
    torch = pytest.importorskip("torch", reason="STUFFED_LIBTORCH names a LibTorch without Python's torch")
    start = shaken(new_model(tmp_path / "new", family), tmp_path / "start")
    before = load_file(start / "model.safetensors")
    config = json.loads((start / "config.json").read_text())
    parameters = {name: torch.tensor(x).requires_grad_() for name, x in before.items()}

    def loss_of(rows):
        logits = logits_of(torch, parameters, config, rows[:, :-1])
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    theirs = their_step(torch, parameters, loss_of, lambda name: name.endswith(decayed))
    expect_equal_steps(our_step(start, tmp_path / "ours"), theirs, before)


@pytest.mark.parametrize(("family", "more"), [("mamba2", {"n_groups": 1}), ("mamba2", {"n_groups": 8, "num_heads": 8,
                                               "head_dim": 8}), ("mamba1", {})])  # fmt: skip
def test_transformers_reads_what_is_left_to_equal_losses(family, more, tmp_path):
    torch = pytest.importorskip("torch", reason="STUFFED_LIBTORCH names a LibTorch without Python's torch")
    import transformers  # after torch, which it needs

    model = new_model(tmp_path / "new", family, **more)
    nll = tmp_path / "nll.safetensors"
    text = tmp_path / "new.txt"
    done = stuffed("ppl-by-length", "--model", model, "--text", text, "--bucket", 32, "--device", "cpu",
                   "-o", tmp_path / "x.jsonl", "--per-token", nll)  # fmt: skip
    assert done.returncode == 0, done.stderr
    tokens = torch.tensor(list(TEXT))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = theirs(tokens[None], use_cache=False).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none").numpy()
    assert np.abs(load_file(nll)["nll"][0] - expected).max() < 1e-5


# ---- resuming ----


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(tmp_path):
    shards = tmp_path / "shards"
    text = tmp_path / "text.txt"
    text.write_bytes((ROOT / "README.md").read_bytes()[:4000])
    assert stuffed("tokenize", "--tokenizer", "bytes", "--shards", shards, text, text).returncode == 0
    run = ["train", "--family", "rwkv6", "--model-config", json.dumps(MODELS["rwkv6"]), "--shards", shards, "--mix",
           "shards=0.5", "recall=0.5", "--length", 16, "--segments", 4, "--batch", 4, "--accumulate", 2,
           "--initial-state", "passed", "--steps", 70, "--warmup", 5, "--decay", 20, "--log-every", 5,
           "--checkpoint-every", 3, "--device", "cpu"]  # fmt: skip
    started = time.monotonic()
    assert stuffed(*run, "-o", tmp_path / "whole").returncode == 0
    seconds = time.monotonic() - started
    command = [str(part) for part in (STUFFED, *run, "-o", tmp_path / "killed")]
    rng = random.Random(7)
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        time.sleep(seconds * rng.uniform(0.3, 0.9))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists() or process.returncode == 0
    assert stuffed(*run, "-o", tmp_path / "killed").returncode == 0
    whole, killed = (stuffed_results.read(tmp_path / name / "train.jsonl") for name in ("whole", "killed"))
    assert killed.records == whole.records and killed.finished
    for name in ("model.safetensors", "checkpoint.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


# ---- shards ----


def shards_index(folder):
    return json.loads((folder / "shards.json").read_text())


def ids_of(folder):
    documents = []
    for shard in shards_index(folder)["shards"]:
        tensors = load_file(folder / shard["file"])
        documents += [part.tolist() for part in np.split(tensors["tokens"], tensors["ends"][:-1])]
    return documents


def test_shards_hold_texts_and_lines_of_any_packing_that_are_long_enough(tmp_path):
    texts = ["a long enough document", "short", "another one that is long enough"]
    (tmp_path / "plain.txt").write_text(texts[0])
    lines = "".join(json.dumps({"body": {"text": text}}) + "\n" for text in texts)
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    subprocess.run(["zstd", "-q", "-o", tmp_path / "lines.jsonl.zst"], input=lines.encode(), check=True)
    out = tmp_path / "out"
    done = stuffed("tokenize", "--tokenizer", "bytes", "--shards", out, "--min-document", 10, tmp_path / "plain.txt",
                   "--jsonl", tmp_path / "lines.jsonl.gz", tmp_path / "lines.jsonl.zst", "--field", "body.text",
                   "--shard-size", 40)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5 documents" in done.stdout and "2 documents left out" in done.stdout
    expected = [texts[0], texts[0], texts[2], texts[0], texts[2]]
    assert [bytes(ids).decode() for ids in ids_of(out)] == expected
    index = shards_index(out)
    assert index["documents"] == 5 and index["left_out"] == 2 and len(index["shards"]) == 3
    again = ["tokenize", "--tokenizer", "bytes", "--shards", out, tmp_path / "plain.txt"]
    refused(stuffed(*again), 2, out, "--overwrite")
    assert stuffed(*again, "--overwrite").returncode == 0 and shards_index(out)["documents"] == 1


def test_what_a_stopped_run_left_of_shards_is_replaced_and_nothing_else(tmp_path):
    (tmp_path / "plain.txt").write_text("a document")
    out = tmp_path / "out"
    run = ["tokenize", "--tokenizer", "bytes", "--shards", out, tmp_path / "plain.txt"]
    assert stuffed(*run).returncode == 0
    (out / "shards.json").unlink()
    (out / "shard-00007.safetensors").write_bytes(b"")
    (out / "shard-00008.safetensors.1.0.tmp").write_bytes(b"")
    assert stuffed(*run).returncode == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "shard-00000.safetensors", "shards.json", "stuffed_tokenizer.json"]  # fmt: skip
    (out / "shards.json").unlink()
    (out / "notes.txt").write_text("mine")
    refused(stuffed(*run), 3, out)
    assert (out / "shard-00000.safetensors").exists()


def test_shards_that_are_complete_are_left_as_they_are_by_the_same_command(tmp_path):
    text, out = tmp_path / "plain.txt", tmp_path / "out"
    text.write_text("a document")
    run = ["tokenize", "--tokenizer", "bytes", "--shards", out, text]
    assert stuffed(*run).returncode == 0
    before = (out / "shards.json").stat().st_ino
    again = stuffed(*run)
    assert again.returncode == 0 and "complete already" in again.stdout
    assert (out / "shards.json").stat().st_ino == before
    for more in (["--min-document", 2], ["--shard-size", 5], ["--no-eos"], [text]):
        refused(stuffed(*run, *more), 2, out, "--overwrite")
    text.write_text("another one")
    refused(stuffed(*run), 2, out, "--overwrite")
    piped = subprocess.run([STUFFED, *map(str, run[:-1]), "-"], input="a document", capture_output=True, text=True)
    assert piped.returncode == 2 and "--overwrite" in piped.stderr
    text.write_text("a document")
    (out / "shard-00000.safetensors").write_bytes(b"damaged")
    refused(stuffed(*run), 3, out, "shard-00000.safetensors")


def test_a_model_of_another_tokenizer_is_trained_on_its_shards_and_keeps_it(tmp_path):
    vocabulary = ROOT / "tests" / "data" / "tokenizers" / "small_neox.json"
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    out = tmp_path / "shards"
    done = stuffed("tokenize", "--tokenizer", vocabulary, "--shards", out, text)
    assert done.returncode == 0, done.stderr
    run = ["train", "--model-config", json.dumps(MODELS["mamba2"]), "--shards", out, "--held-out-shards", out,
           "--length", 16, "--batch", 2, "--steps", 2, "--validation-rows", 1, "--device", "cpu"]  # fmt: skip
    done = stuffed(*run, "-o", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == vocabulary.read_bytes()
    size = shards_index(out)["tokenizer"]["vocab_size"]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"] == size
    refused(stuffed(*run, "--tokenizer", "bytes", "-o", tmp_path / "other"), 3, out, "another tokenizer")


# ---- what is asked, and what is said ----


def test_the_help_lists_every_family_with_its_keys():
    text = stuffed("train", "--help").stdout
    for family in FAMILIES:
        assert f"\n  {family}: hidden_size, num_hidden_layers" in text
    for key in ("head_dim", "time_step_rank", "expand_ratio", "gate_low_rank_dim [", "head_size ["):
        assert key in text


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_key_names_the_right_ones(family, tmp_path):
    config = json.dumps({**MODELS[family], "no_such_key": 1})
    done = stuffed("train", "--family", family, "--model-config", config, "--mix", "repeat=1", "--steps", 1, "-o",
                   tmp_path / "out")  # fmt: skip
    refused(done, 2, "no_such_key", "num_hidden_layers")
    assert not (tmp_path / "out").exists()


REFUSED = [
    (["--family", "hgrn2", "--model-config", '{"hidden_size":32,"num_hidden_layers":1,"num_heads":3}'], "num_heads"),
    (["--family", "rwkv6", "--model-config", '{"hidden_size":32,"num_hidden_layers":1}'], "head_size"),
    (["--family", "rwkv7", "--model-config", '{"hidden_size":32,"num_hidden_layers":1,"head_dim":16,"norm_eps":1e-5}'],
     "norm_eps"),
    (["--family", "mamba1", "--model-config", '{"hidden_size":32}'], "num_hidden_layers"),
    (["--accumulate", "3"], "--accumulate"),
    (["--segments", "3", "--window", "128"], "--length"),
    (["--initial-state", "noise"], "--noise-deviation"),
    (["--schedule", "cosine", "--decay", "1"], "cosine"),
    (["--mix", "books=1"], "--shards NAME=DIR"),
    (["--init-from", "tests/golden/mamba2-hf"], "--model-config"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "says"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_what_cannot_be_is_refused(more, says, tmp_path):
    config = [] if "--model-config" in more else ["--model-config", json.dumps(MODELS["mamba2"])]
    mix = [] if "--mix" in more else ["--mix", "repeat=1"]
    done = stuffed("train", *config, *mix, "--steps", 2, "--device", "cpu", *more, "-o", tmp_path / "out")
    refused(done, 2, says)
    assert not (tmp_path / "out").exists()


def test_the_journal_is_drawn(tmp_path):
    text = tmp_path / "text"
    text.write_bytes(TEXT * 8)
    run = ["train", "--model-config", json.dumps(MODELS["mamba2"]), "--text", text, "--held-out", text, "--length", 32,
           "--batch", 2, "--steps", 4, "--log-every", 1, "--validate-every", 2, "--validation-rows", 2,
           "--validation-length", 200, "--mix", "text=0.5", "repeat=0.5", "--device", "cpu"]  # fmt: skip
    assert stuffed(*run, "-o", tmp_path / "run").returncode == 0
    journal = tmp_path / "run" / "train.jsonl"
    record = stuffed_results.read(journal).records["validation/step=4/text"]
    assert record["position_ends"] == [64, 128, 200]
    weights = np.diff([0, *record["position_ends"]]) / 200
    mean = (32 * record["within_length_nats"] + 168 * record["beyond_length_nats"]) / 200
    assert abs(float(weights @ record["by_position_nats"]) - mean) < 1e-6
    script = ROOT / "scripts" / "plot" / "plot_training.py"
    old = ROOT / "tests" / "golden" / "results" / "train.v1.jsonl"
    done = subprocess.run([sys.executable, script, journal, old, "-o", tmp_path / "figure.png"], capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert pathlib.Path(tmp_path / "figure.png").stat().st_size > 20_000
