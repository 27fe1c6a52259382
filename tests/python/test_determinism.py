"""The records of a run are the same bytes however it was run: again, in shards, resumed; on a CPU in f32 with any
number of threads too. Batch sizes may round otherwise, within bounds (docs/measurements.md)."""

import json
import random
import shutil
import subprocess

import pytest
from cli_support import GOLDEN, ROOT, STUFFED, needs_binary

pytestmark = needs_binary
MODELS = ROOT / "tests" / "models"
FAMILIES = [GOLDEN / name for name in ("mamba2-hf", "mamba1-hf", "rwkv5-pth", "rwkv6-pth", "rwkv7-pth", "hgrn2-fla")]
TEXTS = [str(text) for text in sorted((MODELS / "text").glob("*.txt"))]
BATCHES = [1, 2, 3, 4]
# The largest share by which batch sizes may change a number of a record.
BOUNDS = {("cpu", "f32"): 5e-6, ("cuda", "f32"): 1e-5, ("cuda", "bf16"): 1e-2}


def listed(values):
    return json.dumps([str(value) for value in values])


def sweep_of(device, dtype):
    """Every evaluation; losses of every family and with several batch sizes."""
    return f"""
[defaults]
device = "{device}"
dtype = "{dtype}"
tokenizer = "bytes"
save-every = 0.1
[[runs]]
command = "ppl-by-length"
name = "loss-{{model}}-{{batch-size}}"
text = {listed(TEXTS)}
length = 500
bucket = 64
segment = 96
[runs.grid]
model = {listed([*FAMILIES, MODELS / "mamba2-short"])}
batch-size = {BATCHES}
[[runs]]
command = "state-stats"
text = {listed(TEXTS[:1])}
length = 256
stride = 64
segment = 128
[runs.grid]
model = {listed([FAMILIES[3], MODELS / "mamba2-short"])}
[[runs]]
command = "retention"
text = {listed(TEXTS[:1])}
length = 128
points = 4
segment = 64
[runs.grid]
model = {listed([FAMILIES[4], MODELS / "mamba2-short"])}
[[runs]]
command = "passkey"
name = "passkey-{{batch-size}}"
model = "{MODELS / "mamba2-passkey"}"
lengths = [512]
depths = 3
trials = 1
segment = 128
[runs.grid]
batch-size = {BATCHES}
"""


def has_gpu():
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True, check=False).returncode == 0


PLACES = [("cpu", "f32")] + [
    pytest.param(("cuda", dtype), marks=pytest.mark.skipif(not has_gpu(), reason="there is no GPU"))
    for dtype in ("f32", "bf16")
]


class Sweep:
    def __init__(self, folder, place):
        self.config = folder / "sweep.toml"
        self.config.write_text(sweep_of(*place))
        self.device, self.dtype = place

    def command(self, out, *more):
        return [str(word) for word in (STUFFED, "sweep", self.config, "-o", out, *more)]

    def run(self, out, *more):
        done = subprocess.run(self.command(out, *more), capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        return records_in(out)

    def killed(self, out, dice, seconds, *more):
        """As often as it is killed before it ends, up to five times."""
        kills = 0
        while kills < 5:
            process = subprocess.Popen(self.command(out, *more), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                process.wait(dice.uniform(0.3, 1) * seconds)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
        return kills


def records_in(folder):
    """Of each journal all but the header, which says when and where."""
    return {path.name: path.read_bytes().split(b"\n", 1)[1] for path in sorted(folder.glob("*.jsonl"))}


@pytest.fixture(scope="module", params=PLACES, ids=lambda place: "-".join(place))
def sweep(request, tmp_path_factory):
    return Sweep(tmp_path_factory.mktemp("sweep"), request.param)


@pytest.fixture(scope="module")
def whole(sweep, tmp_path_factory):
    found = sweep.run(tmp_path_factory.mktemp("whole") / "out", "--threads", 1)
    assert len(found) == 4 * 7 + 2 + 2 + 4
    return found


def test_runs_and_threads(sweep, whole, tmp_path):
    # On a CPU another number of threads is another run, too.
    for threads in (2, 3, 4) if sweep.device == "cpu" else (1,):
        assert sweep.run(tmp_path / str(threads), "--threads", threads) == whole, f"{threads} threads"


def test_shards(sweep, whole, tmp_path):
    for shard in (2, 0, 1):
        sweep.run(tmp_path / "out", "--shard", f"{shard}/3", "--threads", 1)
    assert records_in(tmp_path / "out") == whole


def test_resumes(sweep, whole, tmp_path):
    assert sweep.killed(tmp_path / "out", random.Random(1), 4, "--threads", 2) > 0
    found = sweep.run(tmp_path / "out", "--threads", 1)
    assert {name: measured(text) for name, text in found.items()} == {n: measured(text) for n, text in whole.items()}


def numbers_of(text):
    """Floating-point numbers of records, in order."""
    found = []

    def walk(value):
        if isinstance(value, dict):
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list):
            for inner in value:
                walk(inner)
        elif isinstance(value, float):
            found.append(value)

    for line in text.splitlines():
        walk(json.loads(line))
    return found


def measured(text):
    """Without the end line, which says what a run took."""
    return text.rsplit(b"\n", 2)[0]


def farthest(one, other):
    """The largest difference of two numbers, as a share."""
    if measured(one) == measured(other):
        return 0.0
    pairs = zip(numbers_of(measured(one)), numbers_of(measured(other)), strict=True)
    return max((abs(a - b) / abs(a) for a, b in pairs if a), default=0.0)


def test_batch_sizes(sweep, whole):
    singles = [name for name in whole if name.endswith("-1.jsonl")]
    others = {(one, one.replace("-1.jsonl", f"-{batch}.jsonl")) for one in singles for batch in BATCHES[1:]}
    worst = max(farthest(whole[one], whole[other]) for one, other in others)
    print(f"batch sizes change a number by {worst:.1e} of it at most")
    assert worst <= BOUNDS[sweep.device, sweep.dtype]
