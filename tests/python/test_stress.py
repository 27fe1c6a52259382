"""scripts/stress.py, a few kills of every subcommand."""

import random

import pytest
import stress
from cli_support import STUFFED, needs_binary

pytestmark = needs_binary


@pytest.mark.parametrize("name", stress.WORKLOADS)
def test_what_is_killed_and_run_again_leaves_what_one_run_does(name):
    assert list(stress.attack(STUFFED, stress.WORKLOADS[name], 2, random.Random(name))) == []


def test_a_difference_is_found():
    expected = {"a": 1, "b": 2}
    assert list(stress.differences(expected, {"a": 1, "b": 3, "c": 0})) == ["b differs", "c is left over"]
    assert list(stress.differences(expected, {"a": 1})) == ["b is missing"]
