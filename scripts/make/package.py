"""Makes the wheel and the archives: see scripts/package, which starts this."""

import base64
import hashlib
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile

import linked
from linked import PackageError

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD, OUT = ROOT / "build", ROOT / "out" / "package"
TAG = "py3-none-manylinux_2_34_x86_64"
# Where the program of the wheel looks: its own libraries, then those beside it in site-packages.
WHEEL_PATH = "$ORIGIN/lib:$ORIGIN/../torch/lib:$ORIGIN/../nvidia/cu13/lib"
PYTHON_PACKAGES = ["torch==2.11.*", "matplotlib>=3.8", "numpy>=1.26", "pandas>=2.2", "safetensors>=0.4"]
# Of LibTorch's own folder: Python's side of it.
NOT_PACKED = re.compile(r"libtorch_python|libshm|_static|\.a$")


def cached(name: str) -> str:
    found = re.search(rf"^{name}:\w+=(.*)$", (BUILD / "CMakeCache.txt").read_text(), re.MULTILINE)
    return found[1] if found else ""


VERSION = cached("CMAKE_PROJECT_VERSION")
LIBTORCH = pathlib.Path(cached("STUFFED_LIBTORCH"))


def place(source: pathlib.Path, to: pathlib.Path, library_path: str = "") -> None:
    """Copies a file that is run or linked; one of ours without its debugging symbols, and looking in `library_path`."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, to)
    to.chmod(0o755)
    if library_path:
        linked.output_of("strip", "--strip-unneeded", to)
        linked.output_of("patchelf", "--set-rpath", library_path, to)
        if wanted := linked.too_new(to):
            raise PackageError(f"{source} needs {', '.join(wanted)}: newer than {TAG} allows")


def programs(with_cuda: bool) -> list[pathlib.Path]:
    found = [BUILD / "stuffed", *([BUILD / "libstuffed_cuda.so"] if with_cuda else [])]
    return [path for path in found if path.exists()]


def make_wheel(folder: pathlib.Path) -> pathlib.Path:
    package, info = folder / "stuffed_rnn", folder / f"stuffed_rnn-{VERSION}.dist-info"
    licences = linked.Licences(info / "licenses", LIBTORCH)
    for program in programs(with_cuda=True):
        place(program, package / program.name, WHEEL_PATH)
        licences.of_program(f"stuffed_rnn/{program.name}", ROOT)
    for name, path in linked.libraries_of(BUILD / "stuffed", LIBTORCH).own.items():
        place(path, package / "lib" / name)
        licences.of_library(f"stuffed_rnn/lib/{name}", path)
    for module, text in python_modules():
        (package / module).parent.mkdir(exist_ok=True)
        (package / module).write_text(text)
        licences.of_own(f"stuffed_rnn/{module}", ROOT)
    licences.write()
    write_metadata(info)
    return zip_wheel(folder, info)


def python_modules() -> list[tuple[str, str]]:
    """The module's sources. The scripts find one another by sys.path; in the package by its name."""
    own = [(path.name, path.read_text()) for path in sorted((ROOT / "python" / "stuffed_rnn").glob("*.py"))]
    scripts = [("stuffed_results.py", ROOT / "scripts" / "stuffed_results.py")]
    scripts += [(f"plot/{path.name}", path) for path in sorted((ROOT / "scripts" / "plot").glob("*.py"))]
    return [*own, ("plot/__init__.py", ""), *((name, as_package(path.read_text())) for name, path in scripts)]


def as_package(text: str) -> str:
    homes = {"stuffed_results": "stuffed_rnn", "look": "stuffed_rnn.plot", "unfinished": "stuffed_rnn.plot"}
    text = re.sub(r"^sys\.path\.insert\(.*\n", "", text, flags=re.MULTILINE)
    for module, home in homes.items():
        text = re.sub(rf"^( *)import {module}\b", rf"\1from {home} import {module}", text, flags=re.MULTILINE)
        text = re.sub(rf"^( *)from {module} import", rf"\1from {home}.{module} import", text, flags=re.MULTILINE)
    return text


def write_metadata(info: pathlib.Path) -> None:
    requires = "".join(f"Requires-Dist: {package}\n" for package in PYTHON_PACKAGES)
    texts = sorted(
        str(path.relative_to(info / "licenses")) for path in (info / "licenses").rglob("*") if path.is_file()
    )
    named = "".join(f"License-File: {text}\n" for text in texts)
    summary = "Recurrent language models on contexts far longer than trained on"
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: stuffed-rnn\nVersion: {VERSION}\nSummary: {summary}\nLicense-Expression: MIT\n"
        f"{named}Requires-Python: >=3.11\n{requires}\n" + (ROOT / "README.md").read_text()
    )
    (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nGenerator: stuffed\nRoot-Is-Purelib: false\nTag: {TAG}\n")
    (info / "entry_points.txt").write_text("[console_scripts]\nstuffed = stuffed_rnn.__main__:main\n")


def zip_wheel(folder: pathlib.Path, info: pathlib.Path) -> pathlib.Path:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    record = ""
    for path in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest()).rstrip(b"=").decode()
        record += f"{path.relative_to(folder)},sha256={digest},{path.stat().st_size}\n"
    (info / "RECORD").write_text(record + f"{info.name}/RECORD,,\n")
    wheel = OUT / f"stuffed_rnn-{VERSION}-{TAG}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as file:
        for path in [*files, info / "RECORD"]:
            file.write(path, path.relative_to(folder))
    return wheel


def make_archive(folder: pathlib.Path, name: str) -> pathlib.Path:
    top = folder / f"stuffed-{VERSION}"
    licences = linked.Licences(top / "share" / "licenses", LIBTORCH)
    for program in programs(with_cuda=name == "cuda"):
        place(program, top / "bin" / program.name, "$ORIGIN/../lib")
        licences.of_program(f"bin/{program.name}", ROOT)
    found = linked.libraries_of(BUILD / "stuffed", LIBTORCH)
    libraries = {**found.own, **found.libtorch, **(cuda_libraries() if name == "cuda" else {})}
    for library, path in libraries.items():
        place(path, top / "lib" / library)
        licences.of_library(f"lib/{library}", path)
    licences.write()
    archive = OUT / f"stuffed-{name}.tar.zst"
    subprocess.run(["tar", "--sort=name", "--owner=0", "--group=0", "-I", "zstd -T0 -6", "-cf", archive, "-C", folder,
                    top.name], check=True)  # fmt: skip
    return archive


def cuda_libraries() -> dict[str, pathlib.Path]:
    """All of LibTorch's and NVIDIA's: some are opened by name at run time, and linked by none."""
    if not (BUILD / "libstuffed_cuda.so").exists():
        raise PackageError("cuda: the build has no CUDA kernels: run scripts/setup with STUFFED_CUDA=ON")
    files = [*LIBTORCH.glob("lib/*.so*"), *(LIBTORCH.parent / "nvidia").glob("*/lib/*.so*")]
    return {path.name: path for path in files if not NOT_PACKED.search(path.name)}


def main(wanted: list[str]) -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        for name in ["wheel", "cpu"] if wanted == ["both"] else wanted:
            with tempfile.TemporaryDirectory(dir=OUT) as folder:
                made = make_wheel(pathlib.Path(folder)) if name == "wheel" else make_archive(pathlib.Path(folder), name)
            print(f"{made.relative_to(ROOT)}  {made.stat().st_size / 1e6:.0f} MB")
    except PackageError as error:
        print(f"scripts/package: {error}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
