"""The plot scripts as functions."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io

from stuffed_rnn.stuffed_results import ResultsError


def _flags(options: dict) -> list[str]:
    """Keywords as the script's options: log_y=True is --log-y, with_=[a, b] is --with a --with b."""
    flags = []
    for name, value in options.items():
        flag = "--" + name.rstrip("_").replace("_", "-")
        if value is True:
            flags.append(flag)
        elif value is not None and value is not False:
            for item in value if isinstance(value, list | tuple) else [value]:
                flags += [flag, str(item)]
    return flags


def _draw(script: str, *results, output, **options) -> None:
    module = importlib.import_module(f"stuffed_rnn.plot.{script}")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            module.main([*map(str, results), "--output", str(output), *_flags(options)])
    except SystemExit as end:
        if end.code:
            raise ResultsError(said.getvalue().strip()) from end


def _function(script: str):
    draw = functools.partial(_draw, script)
    draw.__doc__ = f"""Draws journals into the picture `output`. Options are the script's, as keywords:
    log_y=True, label=["a", "b"]; `python -m stuffed_rnn.plot.{script} --help` lists them.

    Raises ResultsError for what cannot be drawn."""
    return draw


plot_passkey = _function("plot_passkey")
plot_ppl_by_length = _function("plot_ppl_by_length")
plot_retention = _function("plot_retention")
plot_state_stats = _function("plot_state_stats")
plot_training = _function("plot_training")
