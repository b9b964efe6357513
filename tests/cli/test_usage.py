"""A mistyped command is answered with one sentence and exit code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from halcyon_cli.kubectl import app as kubectl
from halcyon_cli.main import app
from tests.faults.test_commands import commands
from tests.suite.limits import limit

MISUSES = {
    "--verison": "halcyon: there is no option --verison; did you mean --version?; see `halcyon --help`",
    "train run.yaml --checkpoint_root x": (
        "halcyon train: there is no option --checkpoint_root; did you mean --checkpoint-root?; see `halcyon train "
        "--help`"
    ),
    "train run.yaml -x": "halcyon train: there is no option -x; see `halcyon train --help`",
    "checkpoints list a b c": "halcyon checkpoints list: 2 arguments too many: b c; see `halcyon "
    "checkpoints list --help`",
}


@pytest.mark.parametrize("command", MISUSES)
def test_a_misuse_is_reported_in_one_sentence(command: str) -> None:
    result = CliRunner().invoke(app, command.split())
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{MISUSES[command]}\n")


def test_a_flag_takes_no_value_and_shows_no_type() -> None:
    for words in (["--help"], ["train", "--help"], ["checkpoints", "verify", "--help"]):
        shown = CliRunner().invoke(app, words)
        assert shown.exit_code == 0
        assert "bool" not in shown.stdout


PRINTS_NO_TABLE = {
    "train": "its --json is lines of the log", "slurm": "prints a script", "launch": "as train",
    "validate": "prints sentences",
    "resolve": "prints a document", "dial": "prints a document", "render": "prints documents",
    "import hf": "prints a document", "import-config": "prints a document",
    "chat": "a conversation", "serve": "a server", "logs": "prints lines of pods, --raw as they are",
    "export hf": "prints a sentence", "prove": "writes a statement, or says what holds",
    "data conversations": "names its files", "tokenizer train": "writes a file, and shows a table of it",
    "sweep": "halcyon compare --json has the losses of its members",
    "checkpoints pin": "prints a sentence", "checkpoints unpin": "prints a sentence",
    "checkpoints copy": "prints a sentence",
    "status": "has --output json, as kubectl has",
    "diff": "its exit code says whether something differs, as of kubectl diff",
    "checkpoint": "prints sentences", "profile": "prints sentences; show profile --json has the numbers",
    "suspend": "prints a sentence", "resume": "prints a sentence", "restart": "prints a sentence",
    "refresh": "prints a sentence", "profile-here": "for halcyon profile, which shows the numbers",
}  # fmt: skip
"""The commands without ``--json``, and why."""
NO_DEFAULTS = {"resolve": "the cluster adds its defaults when the document is applied"}


def test_each_command_has_the_options_that_its_siblings_have() -> None:
    without_json: set[str] = set()
    for name, command in commands(typer.main.get_command(app)):
        options = {word for one in command.params for word in one.opts}
        documents = [one.metavar for one in command.params if one.param_type_name == "argument"]
        wanted = {"--set", "--defaults"} if "RUN.YAML" in documents else set[str]()
        assert wanted - options <= ({"--defaults"} if name in NO_DEFAULTS else set()), name
        if "--json" not in options or name == "train":
            without_json.add(name)
    assert without_json == PRINTS_NO_TABLE.keys(), "give the command --json, or say why not"


def test_the_shell_completes_commands() -> None:
    typed = {"_HALCYON_COMPLETE": "complete_bash", "COMP_WORDS": "halcyon checkpoints ver", "COMP_CWORD": "2"}
    assert CliRunner().invoke(app, [], env=typed, prog_name="halcyon").stdout.split() == ["verify"]


@pytest.mark.parametrize(
    "command",
    ["checkpoints diff r a b", "checkpoints diff r 1", "tokenizer train --vocab-size many", "data", "data -h x"],
)
def test_no_other_misuse_prints_more_than_one_line(command: str) -> None:
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == 2
    assert "╭" not in result.stderr
    assert len(result.stderr.splitlines()) <= 1


@pytest.mark.parametrize(
    "command", ["staus demo", "restart", "restart a b", "status demo --outptu json", "status --output table"]
)
def test_a_misuse_of_the_kubectl_plugin_is_reported_in_one_line(command: str) -> None:
    result = CliRunner().invoke(kubectl, command.split())
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("kubectl halcyon")
    assert line.endswith("--help`")


def test_control_characters_are_not_repeated_in_errors() -> None:
    result = CliRunner().invoke(app, ["train", "a", "b\x1b[31m\nc" + "x" * 5000])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "\x1b" not in line
    assert len(line) < 500


@pytest.mark.parametrize(
    ("command", "code"), [("--help", 0), ("--version", 0), ("train --help", 0), ("", 2), ("data", 2)]
)
def test_help_and_version_are_printed_without_an_error_box(command: str, code: int) -> None:
    result = CliRunner().invoke(app, command.split())
    assert result.exit_code == code
    assert result.output.strip()
    assert "╭─ Error" not in result.output


def test_an_invalid_file_keeps_the_exit_code_of_the_command() -> None:
    result = CliRunner().invoke(app, ["validate", "/nowhere/run.yaml"])
    assert result.exit_code == 80
    assert len(result.stderr.splitlines()) == 1


def test_the_error_names_the_program_as_it_was_typed() -> None:
    """The sentence names the program as it was typed."""
    command = [sys.executable, "-m", "halcyon_cli.main", "trian"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=limit(60), check=False)
    assert ended.returncode == 2
    assert ended.stderr.endswith(
        "there is no command 'trian'; did you mean train?; see `python -m halcyon_cli.main --help`\n"
    )
    assert len(ended.stderr.splitlines()) == 1
