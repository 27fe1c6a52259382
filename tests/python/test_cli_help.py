"""--help of every command suffices: each option has a description, each command an example; and what is
mistyped is named, together with the help that lists what there is."""

import functools
import json
import re

import pytest
from cli_support import GOLDEN, needs_binary, stuffed

pytestmark = needs_binary
COLUMN = 36  # where descriptions begin


@functools.cache
def help_of(*command: str) -> str:
    done = stuffed(*command, "--help")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout


def sections(text: str) -> str:
    """The part of a help text that lists options, commands and positionals."""
    begin = text.index("Usage:")
    end = min(i for i in (text.find("\n--config FILE.toml"), text.find("\nRun 'stuffed COMMAND"), len(text)) if i >= 0)
    return text[begin:end].partition("\n")[2]


def entries(text: str) -> list[tuple[str, str]]:
    """(name with its type, description) of every line of sections(); a long name has the next line's description."""
    found: list[tuple[str, str]] = []
    lines = sections(text).splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if re.match(r"  \S", line):
            alone = following.startswith(" " * COLUMN) or not re.match(r" \S", line[COLUMN - 1 : COLUMN + 1])
            found.append((line.strip(), "") if alone else (line[:COLUMN].strip(), line[COLUMN:].strip()))
        elif line.startswith(" " * COLUMN):
            name, description = found[-1]
            found[-1] = (name, f"{description} {line.strip()}".strip())
    return found


def commands(*parents: str) -> list[str]:
    """Every command, those of `bench` as "bench scan"."""
    listing = sections(help_of(*parents)).partition("Subcommands:")[2]
    found = []
    for name in re.findall(r"^  (\S+) ", listing, re.MULTILINE):
        found += [" ".join((*parents, name)), *commands(*parents, name)]
    return found


COMMANDS = commands() if not needs_binary.args[0] else []


def test_there_are_commands_and_each_says_what_it_does():
    assert len(COMMANDS) >= 7, COMMANDS
    for name, description in entries(help_of()):
        assert len(description) >= 10, f"{name} has no description"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described_and_there_is_an_example(command):
    text = help_of(*command.split())
    found = entries(text)
    assert len(found) >= 2, text
    for name, description in found:
        assert len(description) >= 6 and re.search(r"[A-Za-z]{2}", description), f"{command}: {name} is not described"
    examples = text.partition("Examples:")[2]
    assert re.search(rf"^ +stuffed {command}\b", examples, re.MULTILINE), "no example"
    assert "Exit codes:" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_use_only_options_that_exist(command):
    text = help_of(*command.split())
    examples = re.split(r"\n\s*\n", text.partition("Examples:")[2])[0].replace("\n    ", " ")
    for line in examples.splitlines():
        for called in re.findall(r"stuffed ([^|>]*)", line):
            name = max((known for known in COMMANDS if f"{called} ".startswith(f"{known} ")), key=len, default=None)
            assert name, f"{command}: there is no command of the example {called}"
            known = help_of(*name.split())
            for option in re.findall(r"(?<=\s)(--[a-z][a-z-]*|-[a-z])\b", called):
                assert re.search(rf"(^  |,){re.escape(option)}\b", known, re.MULTILINE) or option == "--config", (
                    f"{command}: the example has {option}, which {name} lacks"
                )


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_flag_is_named_with_the_help_that_lists_the_known_ones(command):
    done = stuffed(*command.split(), "--frobnicate", "3")
    assert done.returncode == 2, done.stderr
    assert "--frobnicate" in done.stderr and f"stuffed {command} --help" in done.stderr, done.stderr


def test_an_unknown_command_is_named():
    for arguments in (["frobnicate"], ["frobnicate", "--model", "x"], ["--frobnicate"]):
        done = stuffed(*arguments)
        assert done.returncode == 2, done.stderr
        assert "frobnicate" in done.stderr and "stuffed --help" in done.stderr, done.stderr


def test_no_command_at_all_is_wrong_usage():
    done = stuffed()
    assert done.returncode == 2 and "stuffed --help" in done.stderr


def test_the_reader_of_help_texts_sees_what_is_missing():
    text = "Usage: stuffed x\n  -a,--all                          Everything\n  --bare\n"
    text += "  --long-name-of-an-option ALPHA|BETA|GAMMA\n" + " " * COLUMN + "On the next line\n"
    assert entries(text) == [
        ("-a,--all", "Everything"),
        ("--bare", ""),
        ("--long-name-of-an-option ALPHA|BETA|GAMMA", "On the next line"),
    ]


def test_mitigations_are_listed_with_keys_cost_and_rules():
    listed = json.loads(stuffed("mitigations", "--json").stdout)
    assert [m["name"] for m in listed] == [
        "scale_gates",
        "rri",
        "longmamba",
        "clip_insert",
        "clamp_norm",
        "sliding_window",
    ]
    text, of_a_task = stuffed("mitigations").stdout, help_of("ppl-by-length")
    for m in listed:
        assert all(m[key] for key in ("keys", "effect", "cost", "rules"))
        assert f"{m['name']}:{m['keys']}" in text
        assert f"  {m['name']}:{m['keys']}" in of_a_task


@pytest.mark.parametrize(
    ("mitigation", "known"),
    [("rri:decai=1", "decay, insert, dt"), ("sliding_window:tokens=4,size=3", "tokens")],
)
def test_a_wrong_key_of_a_mitigation_names_the_right_ones(mitigation, known):
    model = GOLDEN / "mamba2-hf"
    done = stuffed("generate", "--model", model, "--tokenizer", "bytes", "--prompt", "a", "--mitigation", mitigation)
    assert done.returncode == 2 and done.stderr.rstrip().endswith(f"known: {known}"), done.stderr


def test_choices_are_shown_once_and_the_options_of_tests_not_at_all():
    for command in COMMANDS:
        text = help_of(*command.split())
        assert ":{" not in text and " in [" not in text, command
        assert "--break" not in text, command
