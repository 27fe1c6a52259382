"""Reads the journals that stuffed writes: the only parser, for every schema and version.

run = read("war.jsonl")
run.summary["mean_nll_nats"], run.config["model"]["family"]
"""

import argparse
import contextlib
import dataclasses
import json
import pathlib
import sys

# The newest version of each schema that this reader knows. A newer file is refused, never guessed.
KNOWN = {
    "stuffed.bench": 1,
    "stuffed.fit": 1,
    "stuffed.passkey": 1,
    "stuffed.ppl_by_length": 1,
    "stuffed.state_stats": 1,
    "stuffed.retention": 1,
    "stuffed.retrieval": 1,
    "stuffed.sweep": 1,
    "stuffed.train": 1,
    "stuffed.verify": 1,
}


class ResultsError(ValueError):
    """The file is not a journal, is damaged, or is newer than this reader."""


@dataclasses.dataclass
class Run:
    path: pathlib.Path
    schema: str
    version: int
    config: dict
    provenance: dict
    records: dict  # key -> record, in file order
    finished: bool
    resumed: list  # provenance of each process with another commit that went on

    @property
    def summary(self) -> dict:
        if "summary" not in self.records:
            raise ResultsError(f"{self.path}: has no summary yet; run its command again to finish it")
        return self.records["summary"]


def _parse(path: pathlib.Path, number: int, line: bytes) -> dict:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ResultsError(f"{path}: line {number}: is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ResultsError(f"{path}: line {number}: is not an object")
    return value


def _header(path: pathlib.Path, line: dict) -> Run:
    schema, version = line.get("schema"), line.get("version")
    if not isinstance(schema, str) or not isinstance(version, int) or "config" not in line:
        raise ResultsError(f"{path}: is not a stuffed journal (no schema, version and config in its first line)")
    if schema not in KNOWN:
        raise ResultsError(f"{path}: schema '{schema}' is not known; known are {', '.join(sorted(KNOWN))}")
    if version > KNOWN[schema]:
        raise ResultsError(
            f"{path}: has version {version} of '{schema}', this reader knows up to {KNOWN[schema]}; "
            "use the scripts of the newer stuffed"
        )
    return Run(path, schema, version, line["config"], line.get("provenance", {}), {}, False, [])


def read(path, *schemas: str) -> Run:
    """Reads one journal, of the given schemas if any are given. A torn last line, left by a killed run, is ignored."""
    path = pathlib.Path(path)
    lines = path.read_bytes().split(b"\n")[:-1]  # what follows the last newline is torn
    if not lines:
        raise ResultsError(f"{path}: is not a stuffed journal (not one whole line)")
    run = _header(path, _parse(path, 1, lines[0]))
    if schemas and run.schema not in schemas:
        raise ResultsError(f"{path}: holds {run.schema}, expected {' or '.join(schemas)}")
    for number, raw in enumerate(lines[1:], 2):
        line = _parse(path, number, raw)
        if run.finished:
            raise ResultsError(f"{path}: line {number}: comes after the end line")
        if "key" in line:
            if line["key"] in run.records:
                raise ResultsError(f"{path}: line {number}: key '{line['key']}' comes twice")
            run.records[line["key"]] = line
        elif "end" in line:
            if line.get("records") != len(run.records):
                raise ResultsError(f"{path}: says {line.get('records')} records, but {len(run.records)} are there")
            run.finished = True
        elif "resumed" in line:
            run.resumed.append(line.get("provenance", {}))
        else:
            raise ResultsError(f"{path}: line {number}: is neither a record nor a resumed or end line")
    return run


# What reading or drawing raises over values that no run of stuffed wrote.
_STRANGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError, MemoryError)


@contextlib.contextmanager
def explained(script: str, results, output=None):
    """Whatever is wrong with the results ends the script with one line and exit code 3, as does drawing over them."""
    results = results if isinstance(results, list) else [results]
    try:
        for path in map(pathlib.Path, results):
            if output is not None and path.exists() and pathlib.Path(output).exists() and path.samefile(output):
                raise ResultsError(f"{output}: holds the results; name another picture")
        yield
    except (ResultsError, OSError) as error:
        _end(script, str(error))
    except _STRANGE as error:
        reason = f"no {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        _end(script, f"{', '.join(map(str, results))}: not what this script reads ({' '.join(reason.split())})")


def _end(script: str, message: str) -> None:
    print(f"{script}: {message}", file=sys.stderr)
    sys.exit(3)


def figure_path(text: str) -> pathlib.Path:
    """For argparse: the name of a picture that can be drawn, or of a folder for those who take one (no suffix)."""
    from matplotlib.backend_bases import FigureCanvasBase

    path, known = pathlib.Path(text), sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix and path.suffix[1:].lower() not in known and not path.is_dir():
        raise argparse.ArgumentTypeError(f"'{text}' is no picture; its name ends in .{', .'.join(known)}")
    return path


def arrays(run: Run) -> dict:
    """The tensors of the sidecar a run names in its config, by name. What they are: stuffed COMMAND --help."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    name = run.config.get("arrays")
    if not name:
        raise ResultsError(f"{run.path}: a run of {run.schema} has no arrays beside it")
    path = run.path.parent / name
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ResultsError(f"{path}: the arrays of {run.path.name} cannot be read: {error}") from error
