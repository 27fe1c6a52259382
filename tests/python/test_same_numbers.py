"""Losses, states and decays of every layout are those that tests/golden/results/numbers.json holds.

The file was written by the build before the programs of the recurrence were named. On the same processor the numbers
are the same to the last bit; another one sums in another order, which the tolerance is for.
"""

import json

import pytest
from cli_support import GOLDEN, ROOT, needs_binary, stuffed

EXPECTED = json.loads((GOLDEN / "results" / "numbers.json").read_text())
TEXT = ["--tokenizer", "bytes", "--text", ROOT / "tests" / "models" / "text" / "james.txt", "--device", "cpu"]
ROUNDING = 2e-6  # of f32 sums

pytestmark = needs_binary


def first_document(out):
    return next(json.loads(line) for line in out.read_text().splitlines() if line.startswith('{"key":"document=0"'))


@pytest.mark.parametrize("layout", EXPECTED)
def test_numbers_do_not_change(layout, tmp_path):
    losses, states = tmp_path / "losses.jsonl", tmp_path / "states.jsonl"
    model = ["--model", GOLDEN / layout, *TEXT]
    for command in (
        ["ppl-by-length", *model, "--length", 1500, "--segment", 700, "--bucket", 128, "-o", losses],
        ["state-stats", *model, "--length", 400, "--stride", 100, "-o", states],
    ):
        done = stuffed(*command)
        assert done.returncode == 0, done.stderr
    found = {**first_document(states), "nll_sum_nats": first_document(losses)["nll_sum_nats"]}
    for name, expected in EXPECTED[layout].items():
        assert found[name] == pytest.approx(expected, rel=ROUNDING), name
