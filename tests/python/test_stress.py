"""scripts/stress.py, a kill and a signal for every subcommand."""

import random
import signal
import subprocess
import sys

import pytest
import stress
from cli_support import STUFFED, needs_binary

pytestmark = needs_binary


@pytest.mark.parametrize("name", stress.WORKLOADS)
def test_what_is_killed_and_run_again_leaves_what_one_run_does(name):
    dice = random.Random(name)
    signals = (signal.SIGKILL, dice.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)))
    assert list(stress.attack(STUFFED, stress.WORKLOADS[name], 2, dice, signals)) == []


def test_how_a_program_ended_of_a_signal_is_judged():
    begin = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: {}); "
    for handler, expected in (("sys.exit(75)", None), ("sys.exit(70)", "SIGTERM: exit code 70")):
        code = begin.format(handler) + "print(flush=True); signal.pause()"
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", code], **pipes)
        process.stdout.readline()  # it is ready
        found = stress.stop(process, signal.SIGTERM)
        assert found is None if expected is None else found.startswith(expected)


def test_a_difference_is_found():
    expected = {"a": 1, "b": 2}
    assert list(stress.differences(expected, {"a": 1, "b": 3, "c": 0})) == ["b differs", "c is left over"]
    assert list(stress.differences(expected, {"a": 1})) == ["b is missing"]
