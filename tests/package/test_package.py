"""What scripts/package makes, used where nothing was built: an empty virtual environment, a bare Debian 12."""

import json
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "package"
RESULTS = ROOT / "tests" / "golden" / "results"
sys.path.insert(0, str(ROOT / "scripts" / "make"))
import linked  # noqa: E402

# Whose libraries a wheel must not bring a second time.
FOREIGN = re.compile(r"libgomp|libtorch|libc10|libcud|libcupti|libcublas|libnv|libstdc\+\+|libgcc_s")


def run(*command, **options) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)


def ok(*command, **options) -> str:
    done = run(*command, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made() -> dict[str, pathlib.Path]:
    ok(ROOT / "scripts" / "package")
    return {"wheel": max(OUT.glob("*.whl"), key=os.path.getmtime), "cpu": OUT / "stuffed-cpu.tar.zst"}


@pytest.fixture(scope="module")
def environment(made, tmp_path_factory) -> pathlib.Path:
    """A virtual environment with the packages of .venv, torch among them, and the wheel."""
    (installed,) = ROOT.glob(".venv/lib/python3*/site-packages")
    if not (installed / "torch").exists():
        pytest.skip("stuffed was built with a torch outside .venv")
    folder = tmp_path_factory.mktemp("environment") / "venv"
    ok(sys.executable, "-m", "venv", folder)
    (packages,) = folder.glob("lib/python3*/site-packages")
    for path in installed.iterdir():
        if not (packages / path.name).exists():
            (packages / path.name).symlink_to(path)
    ok(folder / "bin" / "pip", "install", "-q", "--no-index", made["wheel"])
    return folder


@pytest.fixture(scope="module")
def unpacked(made, tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("archive")
    ok("tar", "-xf", made["cpu"], "-C", folder)
    (top,) = folder.iterdir()
    return top


def files_of(folder: pathlib.Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def expect_licences(listed: str, files: set[str], texts: set[str]) -> None:
    """Every file is listed once with licences that are there, and every licence is some file's."""
    lines = dict(line.split(": ", 1) for line in listed.splitlines())
    assert set(lines) == files
    assert all(lines.values()) and {text for line in lines.values() for text in line.split()} == texts


def test_the_wheel_holds_no_library_of_torch(made):
    names = zipfile.ZipFile(made["wheel"]).namelist()
    assert "stuffed_rnn/stuffed" in names and any("libsentencepiece.so" in name for name in names)
    assert not [name for name in names if FOREIGN.match(pathlib.Path(name).name)]


def test_the_wheel_has_the_licences_of_all_that_is_in_it(made):
    wheel = zipfile.ZipFile(made["wheel"])
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    licences = f"{folder}/licenses/"
    texts = {name.removeprefix(licences) for name in wheel.namelist() if name.startswith(licences)} - {"FILES.txt"}
    files = {name for name in wheel.namelist() if not name.startswith(folder)}
    expect_licences(wheel.read(f"{licences}FILES.txt").decode(), files, texts)


def test_the_archive_has_the_licences_of_all_that_is_in_it(unpacked):
    licences = unpacked / "share" / "licenses"
    texts = files_of(licences) - {"FILES.txt"}
    files = {name for name in files_of(unpacked) if not name.startswith("share/licenses/")}
    expect_licences((licences / "FILES.txt").read_text(), files, texts)
    assert {"lib/libcudart.so.13", "lib/libcupti.so.13"} <= files or not any("cuda" in name for name in files)


def test_nothing_is_packed_without_a_licence(tmp_path):
    (tmp_path / "torch").mkdir()
    for name in ("with", "without"):
        (tmp_path / name / "lib").mkdir(parents=True)
        (tmp_path / name / "lib" / "a.so").write_text("")
        (tmp_path / name / "LICENSE.txt").write_text(f"of {name}")
        (tmp_path / f"{name}-1.dist-info").mkdir()
    (tmp_path / "with-1.dist-info" / "RECORD").write_text("with/LICENSE.txt,sha256=x,7\nwith/lib/a.so,sha256=x,0\n")
    (tmp_path / "without-1.dist-info" / "RECORD").write_text("without/lib/a.so,sha256=x,0\n")
    licences = linked.Licences(tmp_path / "licenses", tmp_path / "torch")
    licences.of_library("lib/a.so", tmp_path / "with" / "lib" / "a.so")
    (text,) = licences.files["lib/a.so"]
    assert (tmp_path / "licenses" / text).read_text() == "of with"
    with pytest.raises(linked.PackageError, match="no Python package with a licence has it"):
        licences.of_library("lib/b.so", tmp_path / "without" / "lib" / "a.so")


def test_the_program_needs_no_cuda_and_no_later_system_than_the_tag_says(made, environment):
    (package,) = environment.glob("lib/python3*/site-packages/stuffed_rnn")
    needed = linked.needed(package / "stuffed")
    assert "libtorch_cpu.so" in needed
    assert not [name for name in needed if re.search("cuda|cupti|nv", name)]
    for path in [*package.glob("*stuffed*"), *package.glob("lib/*")]:
        if path.suffix != ".py":
            assert linked.too_new(path) == [], path.name
    assert linked.too_new(package / "stuffed", {"GLIBC": (2, 17), "GLIBCXX": (3, 4, 19), "CXXABI": (1, 3)})


def test_there_is_one_openmp_and_it_is_torchs(environment):
    (packages,) = environment.glob("lib/python3*/site-packages")
    linked_to = ok("ldd", packages / "stuffed_rnn" / "stuffed", env={"PATH": os.environ["PATH"]})
    gomp = [line for line in linked_to.splitlines() if "libgomp" in line]
    assert len(gomp) == 1 and "torch/lib/" in gomp[0], gomp
    assert "not found" not in linked_to


def test_the_wheel_makes_the_first_curve_of_the_demo(environment, tmp_path):
    for i in range(4):
        rng = random.Random(i)
        text = "".join(chr(rng.randint(0x20, 0x7E)) for _ in range(10))
        (tmp_path / f"repeat{i}.txt").write_text((text * 820)[:8193])
    bare = {"PATH": str(environment / "bin"), "HOME": str(tmp_path)}  # no compiler, no shell
    model = ROOT / "tests" / "models" / "mamba2-short"
    texts = sorted(tmp_path.glob("repeat*.txt"))
    options = ["--train-len", "128", "--length", "8K", "--bucket", "32", "--batch-size", "4", "-o", "short.jsonl"]
    command = [environment / "bin" / "stuffed", "ppl-by-length", "--model", model, *options, "--text", *texts]
    ok(*command, cwd=tmp_path, env=bare)
    python = """
import stuffed_rnn
frame = stuffed_rnn.read("short.jsonl")
means = frame.groupby("position_tokens")["mean_nll_nats"].mean()
print(len(frame), means.loc[96], means.loc[8160], frame.attrs["finished"])
stuffed_rnn.plot_ppl_by_length("short.jsonl", output="curve.png", log_y=True, label=["trained at 128"])
try:
    stuffed_rnn.plot_passkey("short.jsonl", output="no.png")
except stuffed_rnn.ResultsError as error:
    print(error)
"""
    rows, within, beyond, finished, *refused = ok(
        environment / "bin" / "python", "-c", python, cwd=tmp_path, env={**bare, "MPLCONFIGDIR": str(tmp_path)}
    ).split()
    assert (rows, finished) == ("1024", "True")
    assert float(beyond) > float(within) + 1  # it collapses
    assert "stuffed.ppl_by_length," in refused and not (tmp_path / "no.png").exists()
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_gpu_it_says_so(environment):
    if "libcuda.so.1" in ok("ldconfig", "-p", env={"PATH": "/usr/sbin:/sbin"}):
        pytest.skip("there is an NVIDIA driver")
    model = ROOT / "tests" / "golden" / "mamba2-hf"
    done = run(environment / "bin" / "stuffed", "verify", model, "--device", "cuda")
    assert done.returncode == 4 and "no NVIDIA driver" in done.stderr and "--device cpu" in done.stderr, done.stderr
    assert "cpu (no NVIDIA driver" in ok(environment / "bin" / "stuffed", "--version")


@pytest.fixture
def driver(tmp_path) -> dict[str, str]:
    """Variables with which the dynamic linker finds something by the name of NVIDIA's driver, which knows of no GPU."""
    folder = tmp_path / "driver"
    folder.mkdir()
    some = next(pathlib.Path("/usr/lib").glob("*/libz.so.1")).resolve()
    shutil.copyfile(some, folder / "libcuda.so.1")
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(folder)}


def evaluate(program: pathlib.Path, device: str, folder: pathlib.Path, variables: dict) -> subprocess.CompletedProcess:
    model = ROOT / "tests" / "golden" / "mamba2-hf"
    tokens = ["--tokens", model / "golden.safetensors", "--tokens-key", "long_tokens", "--length", "64"]
    return run(program, "ppl-by-length", "--model", model, *tokens, "--device", device, "-o", folder / "out.jsonl",
               "--overwrite", env=variables)  # fmt: skip


def test_the_cuda_part_is_opened_where_there_is_a_driver(environment, driver, tmp_path):
    (package,) = environment.glob("lib/python3*/site-packages/stuffed_rnn")
    if not (package / "libstuffed_cuda.so").exists():
        pytest.skip("the build has no CUDA kernels")
    assert "features cpu cuda\n" in ok(package / "stuffed", "--version", env=driver)
    done = evaluate(package / "stuffed", "cuda", tmp_path, driver)
    assert done.returncode == 4 and "no GPU is visible; try --device cpu" in done.stderr, done.stderr
    done = evaluate(package / "stuffed", "auto", tmp_path, driver)
    assert done.returncode == 0 and "warning" not in done.stderr, done.stderr


def test_with_a_torch_for_the_cpu_it_runs_there_and_says_so(environment, driver, tmp_path):
    (packages,) = environment.glob("lib/python3*/site-packages")
    if not (packages / "stuffed_rnn" / "libstuffed_cuda.so").exists():
        pytest.skip("the build has no CUDA kernels")
    shutil.copytree(packages / "stuffed_rnn", tmp_path / "stuffed_rnn")
    (tmp_path / "torch" / "lib").mkdir(parents=True)
    for path in (packages / "torch" / "lib").glob("*.so*"):
        if "cuda" not in path.name:
            (tmp_path / "torch" / "lib" / path.name).symlink_to(path)
    if (packages / "nvidia").exists():
        (tmp_path / "nvidia").symlink_to(packages / "nvidia")
    done = evaluate(tmp_path / "stuffed_rnn" / "stuffed", "auto", tmp_path, driver)
    assert done.returncode == 0, done.stderr
    assert "warning: running on the CPU: libstuffed_cuda.so cannot be opened" in done.stderr, done.stderr
    done = evaluate(tmp_path / "stuffed_rnn" / "stuffed", "cuda", tmp_path, driver)
    assert done.returncode == 4 and "libtorch_cuda.so" in done.stderr, done.stderr


def test_every_schema_is_a_table(environment, tmp_path):
    python = f"""
import json, pathlib, stuffed_rnn
for path in sorted(pathlib.Path({str(RESULTS)!r}).glob("*.v1.jsonl")):
    frame = stuffed_rnn.read(path)
    print(json.dumps([frame.attrs["schema"], len(frame), sorted(frame.columns), frame.iloc[0].to_json()]))
"""
    told = ok(environment / "bin" / "python", "-c", python, cwd=tmp_path)
    tables = {schema: (rows, columns) for schema, rows, columns, _ in map(json.loads, told.splitlines())}
    first = {schema: json.loads(row) for schema, _, _, row in map(json.loads, told.splitlines())}
    assert tables["stuffed.ppl_by_length"][0] == 3 * 32
    assert tables["stuffed.passkey"][0] == json_rows("passkey", "trial")
    assert tables["stuffed.retrieval"][0] == json_rows("retrieval", "trial")
    assert tables["stuffed.state_stats"][0] == 1 * 15 * 3 * 8
    assert {"state.rms", "loss.mean_nll", "dt.layer_mean", "head"} <= set(tables["stuffed.state_stats"][1])
    assert tables["stuffed.retention"][0] == 2 * 2 * 6 * 3
    assert tables["stuffed.train"][0] == json_rows("train", "learning_rate")
    assert first["stuffed.ppl_by_length"]["nll_sum_nats"] == pytest.approx(150.231764793396)
    assert all(rows > 0 for rows, _ in tables.values()) and len(tables) == len(list(RESULTS.glob("*.v1.jsonl")))


def json_rows(task: str, field: str) -> int:
    lines = map(json.loads, (RESULTS / f"{task}.v1.jsonl").read_text().splitlines())
    return sum(field in line for line in lines)


@pytest.fixture(scope="module")
def bare_debian() -> pathlib.Path:
    """Debian 12 with nothing beyond its base. Made once, in build/."""
    if os.geteuid() != 0:
        pytest.skip("a Debian of its own can only be made by root")
    folder = ROOT / "build" / "bare-debian"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        sites = ok("apt-get", "indextargets", "--format", "$(SITE)", "Codename: bookworm", "Component: main").split()
        ok("debootstrap", "--variant=minbase", "bookworm", folder, *sites[:1])
        (folder / "made").touch()
    return folder


def test_the_archive_evaluates_on_a_bare_debian_without_network(bare_debian, unpacked):
    home = bare_debian / "opt"
    shutil.rmtree(home / "stuffed", ignore_errors=True)
    shutil.copytree(unpacked, home / "stuffed")
    shutil.copytree(ROOT / "tests" / "golden" / "mamba2-hf", home / "model", dirs_exist_ok=True)
    script = """
set -eu
for tool in python3 gcc g++ cc; do ! command -v $tool || exit 9; done
[ "$(grep -c : /proc/net/dev)" = 1 ] || exit 10  # lo
cd /opt && rm -f out.jsonl
stuffed/bin/stuffed ppl-by-length --model model --tokens model/golden.safetensors --tokens-key long_tokens \
  --length 512 --bucket 128 --device cpu -o out.jsonl
"""
    enter = 'mount -t proc proc "$1/proc" && exec chroot "$1" /bin/sh -c "$2"'  # $ORIGIN is looked up in /proc
    ok("unshare", "-n", "-m", "/bin/sh", "-c", enter, "-", bare_debian, script,
       env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"})  # fmt: skip
    lines = [json.loads(line) for line in (home / "out.jsonl").read_text().splitlines()]
    assert lines[-1]["end"] and any(line.get("key") == "summary" and line["finite"] for line in lines)
