#!/usr/bin/env python3
"""Fails if a file includes a header of a layer that the architecture's arrows do not lead to.

    cli -> check -> eval, train -> models -> recurrence -> ops -> kernels -> core
    cli, check, eval, train, models, sweep -> io -> core; cli -> sweep; cli -> report -> eval

A layer may include whatever its arrows lead to, near or far. Tests and benchmarks are exempt.
"""

import os
import pathlib
import re
import sys

SUFFIXES = (".cpp", ".h", ".inc", ".in", ".cu", ".cuh")

ARROWS = {
    "core": set(),
    "kernels": {"core"},
    "ops": {"kernels"},
    "recurrence": {"ops"},
    "io": {"core"},
    "models": {"recurrence", "io"},
    "eval": {"models", "io"},
    "check": {"eval"},
    "report": {"eval"},
    "train": {"models", "io"},
    "sweep": {"io"},
    "cli": {"check", "report", "train", "sweep"},
}


def reachable(layer: str) -> set[str]:
    seen = {layer}
    todo = [layer]
    while todo:
        for below in ARROWS[todo.pop()] - seen:
            seen.add(below)
            todo.append(below)
    return seen


def layer_of(path: pathlib.PurePath) -> str | None:
    parts = path.parts
    if parts[0] == "kernels":
        return "kernels"
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    if parts[:2] == ("include", "stuffed") and len(parts) > 3:
        return parts[2]
    return None


def target_of(path: pathlib.PurePath, name: str) -> pathlib.PurePath:
    """The file that `path` means by an include of `name`, relative to the root: as the compiler looks for it."""
    if name.startswith("stuffed/"):
        return pathlib.PurePath("include", name)
    if name.split("/")[0] in ("src", "include", "kernels", "tests"):
        return pathlib.PurePath(os.path.normpath(name))
    return pathlib.PurePath(os.path.normpath(path.parent / name))


def violations_of(path: pathlib.PurePath, text: str) -> list[str]:
    """What is wrong with the includes of one file; `path` is relative to the root."""
    layer = layer_of(path)
    if layer is None:
        return []
    if layer not in ARROWS:
        return [f"{path}: error: '{layer}' is not a layer"]
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*["<]([^">]+)[">]', line)
        if not match or (line.strip().endswith(">") and not match.group(1).startswith("stuffed/")):
            continue
        target = target_of(path, match.group(1))
        below = "tests" if target.parts[0] == "tests" else layer_of(target)
        if below and below not in reachable(layer):
            found.append(f"{path}:{number}: error: {layer} includes {below}, against the arrows: {line.strip()}")
    return found


def main(root: pathlib.Path) -> int:
    violations = []
    for folder in ("src", "include", "kernels"):
        for path in sorted((root / folder).glob("**/*")):
            if path.suffix not in SUFFIXES or re.search(r"_(test|bench|fuzz)\.(cpp|cu)$", path.name):
                continue
            violations += violations_of(path.relative_to(root), path.read_text())
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(__file__).resolve().parent.parent))
