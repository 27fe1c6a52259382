#!/usr/bin/env python3
"""Times decay_scan's CUDA kernels beside the best public ones, in one process and on the same tensors.

Needs a GPU, PyTorch and Triton, the peers' Python sources, and our kernels as a shared library:

    nvcc -O2 -std=c++17 --expt-relaxed-constexpr -Xcompiler -fPIC -shared -I . \\
         -gencode arch=compute_90a,code=sm_90a -o decay_scan.so kernels/decay_scan/*.cu
    PYTHONPATH=peers scripts/bench/peers.py --library decay_scan.so

where `peers` holds fla (flash-linear-attention, fla-core) and mamba_ssm; of the latter only the Triton parts
are used, so an empty mamba_ssm/__init__.py does. Both sides are checked against the f64 kernel on some heads
before anything is timed; a peer that is wrong, crashes or runs out of memory is listed as such.
"""

import argparse
import ctypes
import itertools
import math
import os
import random
import sys

import torch


class View(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p)] + [(axis, ctypes.c_int64) for axis in "bthc"]


class Params(ctypes.Structure):
    """DecayScanParams of kernels/decay_scan/decay_scan_params.h."""

    _fields_ = (
        [(name, ctypes.c_int64) for name in ("batch", "tokens", "heads")]
        + [(name, ctypes.c_int32) for name in ("keys", "columns", "is_bf16", "has_vector_decay")]
        + [(name, View) for name in ("q", "k", "v", "log_decay", "v_scale", "bonus", "bonus_k", "step", "rate")]
        + [("offset", ctypes.c_float)]
        + [(name, View) for name in ("read", "write")]
        + [(name, ctypes.c_void_p) for name in ("state_in", "state_out", "y", "workspace")]
        + [(name, View) for name in ("gate", "base")]
        + [("gate_kind", ctypes.c_int32)]
    )


NEGATIVE_EXP, FORGET = 1, 2  # GateKind of kernels/decay_scan/decay_scan_terms.h


class Plan(ctypes.Structure):
    _fields_ = [
        ("path", ctypes.c_int32),
        ("segments", ctypes.c_int32),
        ("first", ctypes.c_int64),
        ("each", ctypes.c_int64),
    ]


class Kernels:
    """Our kernels behind their C entry points."""

    AXES = {
        **dict.fromkeys(("q", "k", "v", "log_decay", "gate", "read", "write"), "bthc"),
        **dict.fromkeys(("v_scale", "step"), "bth"),
        **dict.fromkeys(("bonus", "rate", "base"), "hc"),
    }

    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.library.stuffed_decay_scan_plan.restype = Plan
        self.library.stuffed_decay_scan_workspace.restype = ctypes.c_int64

    def params(self, inputs):
        p = Params()
        p.batch, p.tokens, p.heads, p.keys = inputs["q"].shape
        p.columns = inputs["v"].shape[-1]
        p.is_bf16 = inputs["q"].dtype == torch.bfloat16
        p.has_vector_decay = "gate" in inputs or ("step" not in inputs and inputs["log_decay"].shape[-1] > 1)
        if "gate" in inputs:
            p.gate_kind = NEGATIVE_EXP if "k" in inputs else FORGET
        for name, axes in self.AXES.items():
            x = inputs.get(name)
            if x is not None:
                strides = {a: 0 if x.size(i) == 1 else x.stride(i) for i, a in enumerate(axes)}
                setattr(p, name, View(x.data_ptr(), *(strides.get(a, 0) for a in "bthc")))
        p.state_in = inputs["state"].data_ptr()
        return p

    def scan(self, inputs):
        """What the C++ launcher does: fresh outputs and scratch, plan, launch."""
        p = self.params(inputs)
        y, state = (
            torch.empty_like(inputs["v"], memory_format=torch.contiguous_format),
            torch.empty_like(inputs["state"]),
        )
        p.y, p.state_out = y.data_ptr(), state.data_ptr()
        plan = self.library.stuffed_decay_scan_plan(ctypes.byref(p), 0)
        floats = self.library.stuffed_decay_scan_workspace(ctypes.byref(p), ctypes.byref(plan))
        workspace = torch.empty(floats, device="cuda")
        p.workspace = workspace.data_ptr()
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        error = self.library.stuffed_decay_scan_launch(ctypes.byref(p), ctypes.byref(plan), stream)
        if error:
            raise RuntimeError(f"CUDA error {error}")
        return y, state

    def reference(self, inputs, batch, head):
        """y [T,V] and state [K,V] of one head in f64."""
        b, h = slice(batch, batch + 1), slice(head, head + 1)
        slices = {"bonus": h, "rate": h, "base": h, "state": (b, h)}
        one = {name: x[slices.get(name, (b, slice(None), h))] for name, x in inputs.items()}
        one["state"] = one["state"].contiguous()
        p = self.params(one)
        y = torch.empty(one["v"].shape, dtype=torch.float64, device="cuda")
        state = torch.empty(one["state"].shape, dtype=torch.float64, device="cuda")
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        pointers = (ctypes.c_void_p(y.data_ptr()), ctypes.c_void_p(state.data_ptr()))
        if error := self.library.stuffed_decay_scan_f64(ctypes.byref(p), *pointers, stream):
            raise RuntimeError(f"CUDA error {error}")
        return y[0, :, 0], state[0, 0]


def normal(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def mamba2_inputs(batch, tokens, heads=64, keys=128, columns=64):
    """Mamba-2 1.3B: views of one wide projection, one group."""
    wide = normal(batch, tokens, heads * columns + 2 * keys)
    x, k, q = wide.split([heads * columns, keys, keys], dim=-1)
    dt = torch.nn.functional.softplus(torch.randn(batch, tokens, heads, device="cuda") - 3)
    rate = -torch.linspace(1, 16, heads, device="cuda")
    shared = [t.unsqueeze(2).expand(-1, -1, heads, -1) for t in (q, k)]
    state = torch.randn(batch, heads, keys, columns, device="cuda")
    inputs = {"q": shared[0], "k": shared[1], "v": x.unflatten(-1, (heads, columns)), "v_scale": dt}
    return inputs | {"log_decay": (dt * rate).unsqueeze(-1), "state": state}, {"rate": rate}


def rwkv6_inputs(batch, tokens, heads=32, keys=64):
    """RWKV-6 1.6B."""
    shape = (batch, tokens, heads, keys)
    log_decay = torch.randn(shape, device="cuda").sub_(2).exp_().neg_()
    inputs = {name: normal(*shape) for name in "qkv"} | {"log_decay": log_decay}
    state = torch.randn(batch, heads, keys, keys, device="cuda")
    return inputs | {"bonus": torch.randn(heads, keys, device="cuda"), "state": state}, {}


def rwkv6_raw_inputs(batch, tokens, heads=32, keys=64):
    """The same with the gate as its projection leaves it; peers take the log decay it stands for."""
    inputs, _ = rwkv6_inputs(batch, tokens, heads, keys)
    base = torch.randn(heads, keys, device="cuda")
    gate = (inputs.pop("log_decay").neg_().log_() - base).to(torch.bfloat16)
    return inputs | {"gate": gate, "base": base}, {"log_decay": lambda: (gate + base).exp_().neg_()}


def hgrn2_inputs(batch, tokens, heads=16, keys=128):
    """HGRN-2 1.3B: k is 1 - f."""
    shape = (batch, tokens, heads, keys)
    log_decay = torch.nn.functional.logsigmoid(torch.randn(shape, device="cuda").add_(2))
    k = log_decay.exp().neg_().add_(1).to(torch.bfloat16)
    state = torch.randn(batch, heads, keys, keys, device="cuda")
    return {"q": normal(*shape), "k": k, "v": normal(*shape), "log_decay": log_decay, "state": state}, {}


def hgrn2_raw_inputs(batch, tokens, heads=16, keys=128):
    """The same with the gate as its projection leaves it, and lower bounds; peers take what it stands for."""
    shape = (batch, tokens, heads, keys)
    gate = torch.randn(shape, device="cuda").add_(2).to(torch.bfloat16)
    base = torch.rand(heads, keys, device="cuda") / 2
    state = torch.randn(batch, heads, keys, keys, device="cuda")
    inputs = {"q": normal(*shape), "v": normal(*shape), "gate": gate, "base": base, "state": state}

    def key():
        return gate.float().neg_().sigmoid_().mul_(1 - base)

    return inputs, {"k": lambda: key().to(torch.bfloat16), "log_decay": lambda: key().neg_().log1p_()}


def rwkv7_inputs(batch, tokens, heads=32, keys=64):
    """RWKV-7 1.5B: what is erased is read along a unit vector, at a rate per channel."""
    shape = (batch, tokens, heads, keys)
    log_decay = torch.randn(shape, device="cuda").sub_(1).sigmoid_().mul_(-math.exp(-0.5))
    read = torch.nn.functional.normalize(torch.randn(shape, device="cuda"), dim=-1)
    write = read * torch.randn(shape, device="cuda").sigmoid_()
    inputs = {name: normal(*shape) for name in "qkv"} | {"log_decay": log_decay}
    inputs |= {"read": read.to(torch.bfloat16), "write": write.to(torch.bfloat16)}
    return inputs | {"state": torch.randn(batch, heads, keys, keys, device="cuda")}, {}


def mamba1_inputs(batch, tokens, heads=4096, keys=16):
    """Mamba-1 1.3B: a channel is a head of one column; its decays are products of two factors. The state is empty, as
    its peer takes none."""
    shared = [normal(batch, tokens, 1, keys).expand(-1, -1, heads, -1) for _ in "qk"]
    step = torch.nn.functional.softplus(torch.randn(batch, tokens, heads, device="cuda") - 3)
    rate = -torch.arange(1, keys + 1, device="cuda").float().expand(heads, keys).contiguous()
    state = torch.zeros(batch, heads, keys, 1, device="cuda")
    inputs = {"q": shared[0], "k": shared[1], "v": normal(batch, tokens, heads, 1)}
    return inputs | {"v_scale": step, "step": step, "rate": rate, "state": state}, {}


def mamba2_peers(inputs, extra):
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    k, q = (inputs[name][:, :, :1] for name in ("k", "q"))
    start = inputs["state"].transpose(2, 3).contiguous()

    def ssd(chunk):
        y, state = mamba_chunk_scan_combined(
            inputs["v"], inputs["v_scale"], extra["rate"], k, q, chunk, initial_states=start, return_final_states=True
        )
        return y, state.transpose(2, 3)

    return {f"mamba_ssm SSD chunk {chunk} (Triton)": lambda chunk=chunk: ssd(chunk) for chunk in (128, 256)}


def with_stored_decay(inputs, extra):
    return inputs | {name: make() for name, make in extra.items()}


def rwkv6_peers(inputs, extra):
    from fla.ops.rwkv6 import chunk_rwkv6

    options = {"scale": 1.0, "initial_state": inputs["state"], "output_final_state": True}
    stored = with_stored_decay(inputs, extra)
    arguments = [stored[name] for name in ("q", "k", "v", "log_decay", "bonus")]
    return {"fla chunk_rwkv6": lambda: chunk_rwkv6(*arguments, **options)}


def hgrn2_peers(inputs, extra):
    from fla.ops.gla import chunk_gla

    options = {"scale": 1.0, "initial_state": inputs["state"], "output_final_state": True}
    stored = with_stored_decay(inputs, extra)
    arguments = [stored[name] for name in ("q", "k", "v", "log_decay")]
    return {"fla chunk_gla": lambda: chunk_gla(*arguments, **options)}


def rwkv7_peers(inputs, _):
    from fla.ops.rwkv7 import chunk_rwkv7

    options = {"scale": 1.0, "initial_state": inputs["state"], "output_final_state": True, "safe_gate": True}
    arguments = [inputs[name] for name in ("q", "log_decay", "k", "v")] + [-inputs["read"], inputs["write"]]
    return {"fla chunk_rwkv7": lambda: chunk_rwkv7(*arguments, **options)}


def mamba1_peers(inputs, _):
    """selective_scan of mamba_ssm's CUDA sources. It wants channels before tokens: the copies are not timed."""
    import selective_scan_cuda

    u, step = (inputs[name].reshape(*inputs["step"].shape).transpose(1, 2).contiguous() for name in ("v", "step"))
    b, c = (inputs[name][:, :, 0].transpose(1, 2).unsqueeze(1).contiguous() for name in ("k", "q"))
    step = step.to(u.dtype)

    def scan():
        y, last, *_ = selective_scan_cuda.fwd(u, step, inputs["rate"], b, c, None, None, None, False)
        return y.transpose(1, 2).unsqueeze(-1), last[:, :, -1, 1::2].unsqueeze(-1)

    return {"mamba_ssm selective_scan": scan}


FAMILIES = {
    "mamba2": (mamba2_inputs, mamba2_peers),
    "rwkv6": (rwkv6_inputs, rwkv6_peers),
    "rwkv6-raw": (rwkv6_raw_inputs, rwkv6_peers),
    "hgrn2": (hgrn2_inputs, hgrn2_peers),
    "hgrn2-raw": (hgrn2_raw_inputs, hgrn2_peers),
    "rwkv7": (rwkv7_inputs, rwkv7_peers),
    "mamba1": (mamba1_inputs, mamba1_peers),
}


class Crash(Exception):
    """A contender left the CUDA context unusable."""


def error_of(run, references):
    """Largest relative L2 error of y and of the final state over the reference heads; inf if not finite."""
    y, state = run()
    worst = [0.0, 0.0]
    for (b, h), expected in references.items():
        for i, (got, want) in enumerate(zip((y[b, :, h], state[b, h]), expected, strict=True)):
            error = ((got.double() - want).norm() / want.norm()).item()
            worst[i] = max(worst[i], error if error == error else float("inf"))
    return worst


def timed(run, cold):
    """Milliseconds of one call, with a cold L2."""
    for _ in range(2):  # long enough that the launches queue up behind it: device time is what counts
        cold.zero_()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def measure(contenders, repeats):
    """Median, p10 and p90 in ms by name; the order is drawn anew for every round."""
    cold = torch.empty(256 << 20, device="cuda")
    times = {name: [] for name in contenders}
    for run in contenders.values():
        timed(run, cold)
    for _ in range(repeats):
        for name in random.sample(list(contenders), len(contenders)):
            times[name].append(timed(contenders[name], cold))
    ranked = {name: sorted(values) for name, values in times.items()}
    return {name: [v[len(v) * i // 10] for i in (5, 1, 9)] for name, v in ranked.items()}


def copy_bandwidth():
    """GB/s of a copy on this device, bytes read and written."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / measure({"copy": lambda: target.copy_(source)}, 10)["copy"][0] / 1e6


def bench_point(builds, family, batch, tokens, repeats, crashed, with_peers):
    """Checks and times one point. A contender that breaks the CUDA context raises Crash with its name."""
    make_inputs, make_peers = FAMILIES[family]
    inputs, extra = make_inputs(batch, tokens)
    heads = inputs["q"].shape[2]
    corners = {(0, 0), (batch - 1, heads - 1)}
    references = {corner: builds["stuffed"].reference(inputs, *corner) for corner in corners}
    runs = {name: lambda kernels=kernels: kernels.scan(inputs) for name, kernels in builds.items()}
    if with_peers:
        runs |= make_peers(inputs, extra)
    verdicts, usable = {}, {}
    for name, run in runs.items():
        if name in crashed:
            verdicts[name] = "CRASH"
            continue
        try:
            y, state = error_of(run, references)
            verdicts[name] = f"y {y:.1e} state {state:.1e}" + ("" if max(y, state) < 2e-2 else " WRONG")
            if max(y, state) < 2e-2:
                usable[name] = run
        except torch.OutOfMemoryError:
            verdicts[name] = "OOM"
        except RuntimeError as error:  # from CUDA or from Triton's launcher
            raise Crash(name) from error
        torch.cuda.empty_cache()
    times = measure(usable, repeats)
    scale = 1e6 / (batch * tokens)
    best = min((t[0] for name, t in times.items() if name not in builds), default=None)
    for name, verdict in verdicts.items():
        line = f"{family:9} B={batch} T={tokens:6} {name:36} {verdict:32}"
        if name in times:
            line += " {:7.2f} ns/token/layer (p10 {:.2f}, p90 {:.2f})".format(*(scale * t for t in times[name]))
        if name == "stuffed" and best and name in times:
            line += f" best peer / ours {best / times[name][0]:.2f}"
        print(line, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True)
    parser.add_argument("--against", help="another build of the library, timed beside the first")
    parser.add_argument("--no-peers", action="store_true", help="time our own kernels alone")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 32768, 131072])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", type=int, default=0, help="the first point to run (set after a crash)")
    parser.add_argument("--crashed", nargs="*", default=[], help="contenders that broke that point")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    torch.set_grad_enabled(False)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {' '.join(sys.argv)}", flush=True)
    builds = {"stuffed": Kernels(args.library)}
    if args.against:
        builds["against"] = Kernels(args.against)
    print(f"copy {copy_bandwidth():.0f} GB/s", flush=True)
    points = list(itertools.product(args.families, args.lengths, args.batches))
    for i, (family, tokens, batch) in enumerate(points[args.resume :], args.resume):
        try:
            crashed = args.crashed if i == args.resume else []
            bench_point(builds, family, batch, tokens, args.repeats, crashed, not args.no_peers)
        except Crash as crash:  # only a new process gets a working context
            rest = [*itertools.takewhile(lambda a: a not in ("--resume", "--crashed"), sys.argv)]
            rest += ["--resume", str(i), "--crashed", *(args.crashed if i == args.resume else []), str(crash)]
            os.execv(sys.executable, [sys.executable, *rest])
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
