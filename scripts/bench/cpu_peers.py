"""One peer of cpu.py in a process of its own: loads the model once, then does what its standard input says.

    scripts/bench/cpu_peers.py llama.cpp|transformers MODEL TOKENS.npy --threads N

TOKENS.npy holds N+1 ids. Prints one JSON line when ready ({"name": ...} or {"missing": reason}), then one per line
read: {"do": "score", "tokens": n, "vocab": v, "out": file.npy, "chunk": c} feeds the first n ids and writes n losses
in nats over the first v columns of the logits; {"do": "decode", "steps": n} takes n greedy steps of one token
({"out": file.npy} for score only, "chunk" for transformers only). Answers hold "seconds".
"""

import argparse
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np

BATCH = 512  # llama.cpp's default; also the tokens transformers is fed at a time: all at once would take 6 GB
PROMPT = 16  # tokens before the decode steps


class Llama:
    def __init__(self, model, threads, context):
        import llama_cpp

        self.api, self.threads = llama_cpp, threads
        self.silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silence, None)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, BATCH, BATCH
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.columns = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self.pool = ThreadPoolExecutor(threads)
        self.name = f"llama.cpp (llama-cpp-python {version('llama-cpp-python')})"

    def clear(self):
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), True)

    def feed(self, ids, position, every_row):
        """-> a view of the logits, [len(ids) or 1, columns]."""
        batch, count = self.batch, len(ids)
        batch.n_tokens = count
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = int(token), position + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = every_row or i == count - 1
        if code := self.api.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode returned {code}")
        rows = count if every_row else 1
        return np.ctypeslib.as_array(self.api.llama_get_logits(self.context), (rows, self.columns))

    def score(self, ids, vocab, chunk):
        self.clear()
        losses = []
        for begin in range(0, len(ids) - 1, BATCH):
            inputs, targets = ids[begin : begin + BATCH][: len(ids) - 1 - begin], ids[begin + 1 : begin + BATCH + 1]
            logits = self.feed(inputs, begin, every_row=True)[:, :vocab]
            parts = np.array_split(np.arange(len(inputs)), 4 * self.threads)
            rows = [part for part in parts if len(part)]
            losses += self.pool.map(lambda part, x=logits, t=targets: nll(x[part[0] : part[-1] + 1], t[part]), rows)
        return np.concatenate(losses)

    def prompt(self, ids):
        self.clear()
        self.last, self.position = self.feed(ids, 0, every_row=False), len(ids)

    def step(self):
        self.last = self.feed([int(self.last[-1].argmax())], self.position, every_row=False)
        self.position += 1


def nll(logits, targets):
    """[n,vocab] f32, [n] -> [n] in nats."""
    most = logits.max(1, keepdims=True)
    shifted = logits - most
    picked = shifted[np.arange(len(targets)), targets]
    return np.log(np.exp(shifted, out=shifted).sum(1)) - picked


class Transformers:
    def __init__(self, model, threads, context):
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        transformers.logging.set_verbosity_error()
        self.torch, self.name = torch, f"transformers {transformers.__version__}"
        self.model = transformers.Mamba2ForCausalLM.from_pretrained(model, dtype=torch.float32).eval()

    def score(self, ids, vocab, chunk):
        for block in self.model.backbone.layers:
            block.mixer.chunk_size = chunk
        ids = self.torch.from_numpy(ids.astype(np.int64))
        losses, cache = [], None
        for begin in range(0, len(ids) - 1, BATCH):
            inputs = ids[begin : begin + BATCH][: len(ids) - 1 - begin]
            out = self.model(inputs[None], cache_params=cache, use_cache=True)
            cache = out.cache_params
            targets = ids[begin + 1 : begin + 1 + len(inputs)]
            losses.append(self.torch.nn.functional.cross_entropy(out.logits[0, :, :vocab], targets, reduction="none"))
        return self.torch.cat(losses).numpy()


PEERS = {"llama.cpp": Llama, "transformers": Transformers}


def answer(peer, ids, request):
    if request["do"] == "score":
        begin = time.perf_counter()
        losses = peer.score(ids[: request["tokens"] + 1], request["vocab"], request.get("chunk"))
        seconds = time.perf_counter() - begin
        np.save(request["out"], losses)
        return {"seconds": seconds}
    peer.prompt(ids[:PROMPT])
    begin = time.perf_counter()
    for _ in range(request["steps"]):
        peer.step()
    return {"seconds": time.perf_counter() - begin}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=list(PEERS))
    parser.add_argument("model")
    parser.add_argument("tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=8192, help="the most tokens a request will take")
    args = parser.parse_args()
    ids = np.load(args.tokens)
    try:
        peer = PEERS[args.peer](args.model, args.threads, args.context)
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    print(json.dumps({"name": peer.name}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(peer, ids, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
