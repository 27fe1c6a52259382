"""What shells and man read of the command line: completion, manual pages, help that fits the terminal, and an
installation."""

import functools
import os
import pty
import re
import shutil
import subprocess

import pytest
from cli_support import ROOT, STUFFED, needs_binary, refused, stuffed
from test_cli_help import COMMANDS, help_of

pytestmark = needs_binary


@functools.cache
def bash_script() -> str:
    return stuffed("completion", "bash").stdout


def completed(*words: str) -> list[str]:
    """What bash offers for the last of `words`."""
    script = (
        """source /dev/stdin; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _stuffed; printf '%s\\n' "${COMPREPLY[@]}" """
    )
    done = subprocess.run(["bash", "-c", script, "bash", "stuffed", *words], input=bash_script(),
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_commands_options_and_values():
    assert {"passkey", "ppl-by-length", "--version"} <= set(completed(""))
    assert completed("pass") == ["passkey"]
    assert {"--lengths", "--model", "--output"} <= set(completed("passkey", "--"))
    assert completed("passkey", "--dt") == ["--dtype"]
    assert completed("passkey", "--dtype", "") == ["f32", "bf16"]
    assert completed("passkey", "--dtype", "=", "b") == ["bf16"]
    assert completed("passkey", "--device", "c") == ["cpu", "cuda"]
    assert completed("passkey", "--model", "x") == []  # readline then offers files
    assert set(completed("bench", "")) >= {"scan", "model"}
    assert "--shape" in completed("bench", "model", "--")
    assert completed("help", "pass") == ["passkey"]
    assert "--shape" not in completed("passkey", "--")


def test_every_option_of_every_command_is_completed():
    for command in COMMANDS:
        known = set(re.findall(r"^  (?:-\S,)?(--[a-z0-9-]+)", help_of(*command.split()), re.MULTILINE))
        assert known <= set(completed(*command.split(), "--")), command


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_zsh_takes_the_script(tmp_path):
    (tmp_path / "_stuffed").write_text(stuffed("completion", "zsh").stdout)
    script = "fpath=($1 $fpath); autoload -Uz compinit; compinit -u -D; print $_comps[stuffed]; autoload +X _stuffed"
    done = subprocess.run(["zsh", "-fc", script, "zsh", tmp_path], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "_stuffed\n", "")
    assert subprocess.run(["zsh", "-n", tmp_path / "_stuffed"], capture_output=True).stderr == b""


def test_another_shell_is_refused():
    refused(stuffed("completion", "fish"), 2, "fish")


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="there is no mandoc here")
def test_manual_pages_say_what_help_says(tmp_path):
    assert stuffed("man-pages", tmp_path / "man1").returncode == 0
    pages = sorted(path.name for path in (tmp_path / "man1").iterdir())
    assert pages == sorted(["stuffed.1", *(f"stuffed-{command.replace(' ', '-')}.1" for command in COMMANDS)])
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *(tmp_path / "man1").iterdir()], text=True,
                          capture_output=True)  # fmt: skip
    complaints = [line for line in lint.stdout.splitlines() if "missing date" not in line]
    assert complaints == []
    for command in ("passkey", "bench model"):
        page = tmp_path / "man1" / f"stuffed-{command.replace(' ', '-')}.1"
        done = subprocess.run(["mandoc", "-T", "ascii", "-O", "width=500", page], capture_output=True, text=True)
        shown = " ".join(re.sub(".\b", "", done.stdout).split())
        for name, description in options_of(command):
            assert f"{name} {description}" in shown, name


def options_of(command: str) -> list[tuple[str, str]]:
    text = help_of(*command.split())
    rows = re.findall(r"^  (-.*?)\n? {2,}(\S.*(?:\n {30,}\S.*)*)", text, re.MULTILINE)
    assert len(rows) > 5
    return [(" ".join(name.split()), " ".join(description.split())) for name, description in rows]


def test_help_takes_a_command_and_v_is_short_for_version():
    assert stuffed("help", "bench", "scan").stdout == stuffed("bench", "scan", "--help").stdout
    assert stuffed("help").stdout == stuffed("--help").stdout
    assert stuffed("-V").stdout == stuffed("--version").stdout
    done = stuffed("help", "passkye")
    assert done.returncode == 2 and "passkey" in done.stderr


def on_terminal(columns: int, *command: str) -> str:
    """What a terminal of so many columns shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("COLUMNS", None)
        subprocess.run(["stty", "cols", str(columns)], check=True)
        os.execv(STUFFED, ["stuffed", *command])
    shown = b""
    try:
        while piece := os.read(terminal, 65536):
            shown += piece
    except OSError:  # the terminal is closed
        pass
    assert os.waitpid(pid, 0)[1] == 0
    return shown.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_help_is_wrapped_to_the_terminal(columns):
    whole = stuffed("ppl-by-length", "--help", env={"COLUMNS": "10000"}).stdout
    shown = on_terminal(columns, "ppl-by-length", "--help")
    too_long = [line for line in shown.splitlines() if len(line) > columns and not line.startswith("  stuffed ")]
    assert all(" " not in line.strip() for line in too_long), too_long
    assert shown.split() == whole.split()


def test_an_installation_holds_what_a_user_needs(tmp_path):
    subprocess.run(["cmake", "--install", ROOT / "build", "--prefix", tmp_path], check=True, capture_output=True)
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    expected = {"bin/stuffed", "share/man/man1/stuffed-passkey.1", "share/zsh/site-functions/_stuffed",
                "share/bash-completion/completions/stuffed", "share/stuffed/configs/ci/expected.jsonl",
                "share/licenses/stuffed/LICENSE"}  # fmt: skip
    assert expected <= installed
    done = subprocess.run([tmp_path / "bin" / "stuffed", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == stuffed("--version").stdout
