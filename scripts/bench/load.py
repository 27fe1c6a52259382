#!/usr/bin/env python3
"""Times reading a synthetic checkpoint of each container, and its peak memory, beside the upstream readers.

    scripts/bench/load.py [--gigabytes 3] [--folder DIR]

Writes bf16 files with torch.save and safetensors, then loads each in fresh processes: by build/stuffed_tests (every
tensor converted to bf16, then to f32) and by torch.load and safetensors (every tensor materialised, in bf16).
"""
import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
UPSTREAM = """
import sys, time, torch, safetensors.torch
begin = open("/proc/self/status").read().split("VmRSS:")[1].split()[0]
start = time.perf_counter()
path = sys.argv[1]
if path.endswith(".safetensors"):
    tensors = {k: v.clone() for k, v in safetensors.torch.load_file(path).items()}
else:
    tensors = torch.load(path, weights_only=True)
seconds = time.perf_counter() - start
peak = open("/proc/self/status").read().split("VmHWM:")[1].split()[0]
size = sum(t.nbytes for t in tensors.values())
reader = "safetensors" if path.endswith(".safetensors") else "torch.load"
print(f"{reader} BFloat16: {seconds:.2f} s, peak {(int(peak) - int(begin)) * 1024 / size:.3f} x weights")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--gigabytes", type=float, default=3)
    parser.add_argument("--folder", help="where the files are made (default: the system's temporary folder)")
    args = parser.parse_args()

    import safetensors.torch
    import torch

    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = [f"{folder}/model.safetensors", f"{folder}/pytorch_model.bin"]
        count = max(1, round(args.gigabytes * 2**30 / (2560 * 10240 * 2)))
        tensors = {f"layers.{i}.weight": torch.zeros(2560, 10240, dtype=torch.bfloat16) for i in range(count)}
        safetensors.torch.save_file(tensors, paths[0])
        torch.save(tensors, paths[1])
        del tensors
        status = 0
        for path in paths:
            print(f"{pathlib.Path(path).name}, {os.path.getsize(path) / 2**30:.2f} GiB", flush=True)
            subprocess.run([sys.executable, "-c", UPSTREAM, path], check=True)
            ours = subprocess.run([ROOT / "build/stuffed_tests", "--gtest_filter=LoadSlow.*", "--gtest_brief=1"],
                                  env=os.environ | {"STUFFED_BENCH_FILE": path}, capture_output=True, text=True)
            print("\n".join("stuffed " + line for line in ours.stdout.splitlines() if "peak" in line), flush=True)
            status |= ours.returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
