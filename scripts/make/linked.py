"""What a program is linked to: which libraries, which versions of symbols, under which licences."""

import dataclasses
import pathlib
import re
import shutil
import subprocess

# What PEP 600 takes for granted, of these versions at most (manylinux_2_34).
SYSTEM = r"(linux-vdso|ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libutil|libstdc\+\+|libgcc_s)\.so"
NEWEST = {"GLIBC": (2, 34), "GLIBCXX": (3, 4, 29), "CXXABI": (1, 3, 13)}

# Debian packages of headers that are compiled into the program.
HEADERS = ["libcli11-dev", "libtomlplusplus-dev", "nlohmann-json3-dev"]

LICENCE_IN_RECORD = re.compile(r"^(.*/LICENSE[^/,]*),", re.MULTILINE)  # of a wheel without a folder of licences


class PackageError(Exception):
    """One line that says what to try."""


def output_of(*command) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True).stdout


@dataclasses.dataclass
class Libraries:
    """What a program is linked to, near and far, by the name it asks for."""

    own: dict[str, pathlib.Path]  # of the system, but not of every system
    libtorch: dict[str, pathlib.Path]  # LibTorch's, its OpenMP and NVIDIA's


def libraries_of(program: pathlib.Path, libtorch: pathlib.Path) -> Libraries:
    found = Libraries({}, {})
    homes = [libtorch.resolve(), libtorch.resolve().parent / "nvidia"]
    for line in output_of("ldd", program).splitlines():
        name, _, path = line.strip().partition(" => ")
        if re.match(SYSTEM, pathlib.Path(name.split(" ")[0]).name):
            continue
        if not path or "not found" in path:
            raise PackageError(f"{program}: {line.strip()}; run scripts/setup")
        path = pathlib.Path(path.split(" ")[0])
        is_torch = any(path.resolve().is_relative_to(home) for home in homes)
        (found.libtorch if is_torch else found.own)[name] = path
    return found


def too_new(program: pathlib.Path, newest: dict = NEWEST) -> list[str]:
    """The symbols that a program needs in a later version than `newest` has."""
    wanted = []
    for line in output_of("objdump", "-T", program).splitlines():
        found = re.search(r"\*UND\*.*\(?\b(GLIBC|GLIBCXX|CXXABI)_([0-9.]+)\)? +(\S+)", line)
        if found and tuple(map(int, found[2].split("."))) > newest[found[1]]:
            wanted.append(f"{found[3]}@{found[1]}_{found[2]}")
    return wanted


def needed(program: pathlib.Path) -> list[str]:
    return re.findall(r"\(NEEDED\).*\[(.*)\]", output_of("readelf", "-d", program))


class Licences:
    """Collects the licence texts of files in a folder, and the list that says which file is under which."""

    def __init__(self, folder: pathlib.Path, libtorch: pathlib.Path):
        self.folder, self.packages = folder, libtorch.resolve().parent
        self.files: dict[str, list[str]] = {}
        folder.mkdir(parents=True)

    def of_program(self, name: str, root: pathlib.Path) -> None:
        """Of a file that we built: ours, and those of what is compiled into it."""
        texts = [self._take(root / "LICENSE", "stuffed.txt")]
        texts.append(self._take(root / "third_party" / "notices" / "bokeh.txt", "bokeh.txt"))
        texts += [text for package in HEADERS for text in self._debian(package)]
        self.files[name] = texts + self._wheel_of(
            self.packages / "torch" / "lib" / "libtorch_cpu.so"
        )  # its headers, fmt

    def of_own(self, name: str, root: pathlib.Path) -> None:
        self.files[name] = [self._take(root / "LICENSE", "stuffed.txt")]

    def of_library(self, name: str, path: pathlib.Path) -> None:
        if path.name.startswith("libgomp"):  # LibTorch's wheel has it, and no word on it
            self.files[name] = self._debian("libgomp1")
        elif path.resolve().is_relative_to(self.packages):
            self.files[name] = self._wheel_of(path)
        else:
            self.files[name] = self._debian(_debian_package(path))

    def write(self) -> None:
        lines = [f"{name}: {' '.join(texts)}\n" for name, texts in sorted(self.files.items())]
        (self.folder / "FILES.txt").write_text("".join(lines))

    def _take(self, text: pathlib.Path, name: str) -> str:
        if not text.is_file():
            raise PackageError(f"{text}: the licence is missing, and without it nothing may be packed")
        (self.folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(text, self.folder / name)
        return name

    def _debian(self, package: str) -> list[str]:
        copyright = pathlib.Path("/usr/share/doc", package, "copyright")
        texts = [self._take(copyright, f"{package}.txt")]
        named = set(re.findall(r"/usr/share/common-licenses/([\w.+-]*\w)", copyright.read_text(errors="replace")))
        return texts + [
            self._take(pathlib.Path("/usr/share/common-licenses", one), f"common/{one}") for one in sorted(named)
        ]

    def _wheel_of(self, path: pathlib.Path) -> list[str]:
        """Of the Python package that installed a file."""
        inside = str(path.resolve().relative_to(self.packages))
        for record in sorted(self.packages.glob("*.dist-info/RECORD")):
            if f"\n{inside}," in "\n" + record.read_text():
                package = record.parent.name.split("-")[0]
                texts = sorted(one for one in (record.parent / "licenses").rglob("*") if one.is_file())
                texts = texts or [self.packages / name for name in LICENCE_IN_RECORD.findall(record.read_text())]
                if texts:
                    return [self._take(one, f"{package}.{one.stem}.txt") for one in texts]
        raise PackageError(
            f"{path}: no Python package with a licence has it; build with the torch of .venv (scripts/setup)"
        )


def _debian_package(path: pathlib.Path) -> str:
    real = path.resolve()
    for candidate in (real, pathlib.Path("/", *real.parts[2:])):  # /usr/lib is /lib too
        found = subprocess.run(["dpkg", "-S", candidate], capture_output=True, text=True)
        if found.returncode == 0:
            return found.stdout.split(":")[0]
    raise PackageError(f"{path}: no Debian package has it, so its licence is unknown")
