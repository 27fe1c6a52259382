#!/usr/bin/env python3
"""Compares two files of `stuffed bench`: exit code 1 if a measurement became slower than the limit allows.

    stuffed bench scan --family all -o before.jsonl     # at the old commit
    stuffed bench scan --family all -o after.jsonl      # at the new one, on the same machine
    scripts/bench/regress.py before.jsonl after.jsonl

The ratio is that of the median times (above 1: slower). Beside it stands the spread of both, (p90 - p10) /
median: where it exceeds the limit, the ratio says little, and more --repeats or a quieter machine are needed. A
measurement that was timed before and is now refused, out of memory or missing counts as a regression. Exit
codes: 0 ok, 1 a regression, 2 usage error, 3 a file that cannot be read or files of different machines.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import stuffed_results  # noqa: E402


def fail(code: int, message: str):
    print(f"bench_regress: {message}", file=sys.stderr)
    sys.exit(code)


def load(path: str) -> stuffed_results.Run:
    try:
        return stuffed_results.read(path, "stuffed.bench")
    except (OSError, stuffed_results.ResultsError) as error:
        fail(3, str(error))


def compare(before: dict | None, after: dict | None, limit: float) -> tuple[str, str, bool]:
    """Ratio and verdict of one key, and whether it is a regression."""
    if before is None or before["verdict"] != "timed":
        return "-", "new" if before is None else f"was {before['verdict']}", False
    if after is None:
        return "-", "MISSING", True
    if after["verdict"] != "timed":
        return "-", after["verdict"].upper(), True
    ratio = after["seconds_median"] / before["seconds_median"]
    is_slower = ratio > 1 + limit
    noise = max(before["spread"], after["spread"])
    verdict = "SLOWER" if is_slower else "faster" if ratio < 1 - limit else "same"
    return f"{ratio:.3f}", verdict + (" (noisy)" if noise > limit else ""), is_slower


def percent(record: dict | None) -> str:
    return f"{100 * record['spread']:.1f} %" if record and "spread" in record else "-"


def time_of(record: dict | None) -> str:
    return f"{record['ns_per_token_per_layer']:.2f}" if record and "ns_per_token_per_layer" in record else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--limit", type=float, default=3, help="percent a median may become slower (default 3)")
    parser.add_argument("--any-machine", action="store_true", help="compare files of different devices all the same")
    arguments = parser.parse_args()
    if not arguments.limit >= 0:
        parser.error(f"--limit {arguments.limit}: expected a percentage of at least 0")

    before, after = load(arguments.before), load(arguments.after)
    devices = [run.provenance.get("device_name") for run in (before, after)]
    if devices[0] != devices[1] and not arguments.any_machine:
        fail(3, f"measured on '{devices[0]}' and on '{devices[1]}'; --any-machine compares them all the same")

    row = "{:<62} {:>12} {:>12} {:>7} {:>9} {:>9}  {}"
    print(row.format("measurement", "before ns", "after ns", "ratio", "spread", "spread", ""))
    regressions = 0
    for key in dict.fromkeys([*before.records, *after.records]):
        old, new = before.records.get(key), after.records.get(key)
        ratio, verdict, is_regression = compare(old, new, arguments.limit / 100)
        regressions += is_regression
        print(row.format(key, time_of(old), time_of(new), ratio, percent(old), percent(new), verdict))
    print(f"{regressions} regressions beyond {arguments.limit:g} %")
    return 1 if regressions else 0


if __name__ == "__main__":
    sys.exit(main())
