"""The command `stuffed`: becomes the program that lies beside this file."""

import importlib.util
import os
import pathlib
import sys


def main() -> None:
    here = pathlib.Path(__file__).resolve().parent
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        print("stuffed: there is no torch in this environment: install torch 2.11", file=sys.stderr)
        sys.exit(4)
    torch = pathlib.Path(found.submodule_search_locations[0])
    environment = dict(os.environ)
    if torch.parent.resolve() != here.parent:  # where the program looks by itself
        paths = [str(torch / "lib"), *filter(None, [environment.get("LD_LIBRARY_PATH")])]
        environment["LD_LIBRARY_PATH"] = ":".join(paths)
    os.execve(here / "stuffed", ["stuffed", *sys.argv[1:]], environment)


if __name__ == "__main__":
    main()
