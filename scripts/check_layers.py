#!/usr/bin/env python3
"""Fails if a file includes a header of a layer that the architecture's arrows do not lead to.

    cli -> eval, train -> models -> recurrence -> ops -> kernels -> core
    cli, eval, train, models -> io -> core

A layer may include whatever its arrows lead to, near or far. Tests and benchmarks are exempt.
"""
import pathlib
import re
import sys

ARROWS = {
    "core": set(),
    "kernels": {"core"},
    "ops": {"kernels"},
    "recurrence": {"ops"},
    "io": {"core"},
    "models": {"recurrence", "io"},
    "eval": {"models", "io"},
    "train": {"models", "io"},
    "cli": {"eval", "train", "io"},
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


def main() -> int:
    root = pathlib.Path(__file__).resolve().parent.parent
    violations = 0
    for path in sorted(root.glob("**/*")):
        relative = path.relative_to(root)
        if relative.parts[0] not in ("src", "include", "kernels") or path.suffix not in (".cpp", ".h", ".cu", ".cuh"):
            continue
        if re.search(r"_(test|bench|fuzz)\.(cpp|cu)$", path.name):
            continue
        layer = layer_of(relative)
        if layer is None:
            continue
        if layer not in ARROWS:
            print(f"{relative}: error: '{layer}' is not a layer")
            violations += 1
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            match = re.match(r'\s*#include "(?:stuffed/(\w+)/|(kernels)/)', line)
            target = match and (match.group(1) or match.group(2))
            if target and target not in reachable(layer):
                print(f"{relative}:{number}: error: {layer} includes {target}, against the arrows: {line.strip()}")
                violations += 1
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
