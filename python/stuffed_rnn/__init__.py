"""Results of stuffed as tables and pictures.

frame = stuffed_rnn.read("war.jsonl")         # a pandas.DataFrame, one row per bucket, trial or sample
run = stuffed_rnn.read_run("war.jsonl")       # the journal itself: config, provenance, records, summary
stuffed_rnn.plot_ppl_by_length("war.jsonl", output="war.png", log_y=True)
"""

import importlib

# Imported when they are asked for: the command `stuffed` starts from this package too, and needs none of them.
_HOME = {
    "ResultsError": ("stuffed_results", "ResultsError"),
    "Run": ("stuffed_results", "Run"),
    "arrays": ("stuffed_results", "arrays"),
    "read": ("frames", "read"),
    "read_run": ("stuffed_results", "read"),
    "plot_passkey": ("plots", "plot_passkey"),
    "plot_ppl_by_length": ("plots", "plot_ppl_by_length"),
    "plot_retention": ("plots", "plot_retention"),
    "plot_state_stats": ("plots", "plot_state_stats"),
    "plot_training": ("plots", "plot_training"),
}
__all__ = sorted(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    module, attribute = _HOME[name]
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return __all__
