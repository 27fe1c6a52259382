"""No register of a hot kernel spills to local memory on sm_90a. Compiles; needs no GPU, only the build's CUDA compiler.

ptxas allocates registers when a kernel is compiled, so a spill shows without running anything. The f64 kernel is
the specification, not fast on purpose, and exempt.
"""

import concurrent.futures
import os
import pathlib
import re
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for path in ROOT.glob("kernels/**/*.cu") if "_f64" not in path.name and "__global__" in path.read_text()
)
ENTRY = re.compile(
    r"Function properties for (?P<name>\S+)\n"
    r"\s*\d+ bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)


def compiler() -> str | None:
    cache = ROOT / "build" / "CMakeCache.txt"
    if not cache.exists():
        return None
    found = re.search(r"^CMAKE_CUDA_COMPILER:\w+=(.*)$", cache.read_text(), re.MULTILINE)
    return found[1] if found and os.access(found[1], os.X_OK) else None


NVCC = compiler()
pytestmark = pytest.mark.skipif(NVCC is None, reason="the build has no CUDA compiler")


def spills(source: pathlib.Path) -> dict[str, int]:
    """Bytes each kernel of a file writes to and reads from local memory because registers ran out."""
    options = ["-std=c++17", "-O3", "-lineinfo", "--expt-relaxed-constexpr", "-arch=sm_90a", "-Xptxas=-v"]
    command = [NVCC, *options, "-cubin", "-I", str(ROOT), "-I", str(ROOT / "include"), "-o", os.devnull, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {m["name"]: int(m["stores"]) + int(m["loads"]) for m in ENTRY.finditer(done.stdout + done.stderr)}
    return {name: size for name, size in found.items() if "kernel" in name}


def test_no_kernel_spills():
    kernels = ("scalar", "scalar_hopper", "vector", "vector_hopper", "wide_hopper", "erase_hopper", "tokens")
    assert {*(f"decay_scan_{name}.cu" for name in kernels), "selective_scan.cu", "selective_scan_tiles.cu"} <= {
        source.name for source in SOURCES
    }
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        results = dict(zip(SOURCES, pool.map(spills, SOURCES), strict=True))
    for source, kernels in results.items():
        assert kernels, f"ptxas named no kernel of {source.name}"
    found = {f"{s.name}: {name}": size for s, kernels in results.items() for name, size in kernels.items() if size}
    assert not found, f"bytes spilled: {found}"


def test_a_kernel_with_too_few_registers_is_noticed(tmp_path):
    text = (ROOT / "kernels" / "decay_scan" / "selective_scan.cu").read_text()
    bounds = "__launch_bounds__(kThreads, 4)"
    assert bounds in text
    crowded = tmp_path / "crowded.cu"
    crowded.write_text(text.replace(bounds, "__launch_bounds__(kThreads, 12)"))  # 40 registers a thread
    kernels = spills(crowded)
    assert kernels and any(kernels.values()), kernels
