"""Reads a journal of results (JSON Lines: header, records, end). The only parser of them in Python."""

from __future__ import annotations

import dataclasses
import json
import pathlib

# The newest version of each schema that this reader knows.
VERSIONS = {"stuffed.passkey": 1, "stuffed.ppl_by_length": 1}


@dataclasses.dataclass
class Run:
    schema: str
    version: int
    config: dict
    provenance: dict
    records: dict[str, dict]  # by key, in the order of the file
    finished: bool


def read(path: str | pathlib.Path, schema: str | None = None) -> Run:
    """Raises ValueError, naming the file, for what is no journal, is newer than this reader, or has another schema."""
    lines = pathlib.Path(path).read_text(encoding="utf-8").split("\n")
    whole = lines[:-1]  # what follows the last newline is a torn line, or nothing
    if not whole:
        raise ValueError(f"{path}: is empty")
    header = json.loads(whole[0])
    if not isinstance(header, dict) or "schema" not in header:
        raise ValueError(f"{path}: line 1 is no header; is it a result of stuffed?")
    if schema is not None and header["schema"] != schema:
        raise ValueError(f"{path}: holds {header['schema']}, expected {schema}")
    known = VERSIONS.get(header["schema"])
    if known is None or header["version"] > known:
        raise ValueError(f"{path}: {header['schema']} version {header['version']} is unknown here (known: {known})")
    run = Run(header["schema"], header["version"], header["config"], header["provenance"], {}, False)
    for line in whole[1:]:
        record = json.loads(line)
        if record.get("end"):
            run.finished = True
        elif "key" in record:
            run.records[record["key"]] = record
    return run
