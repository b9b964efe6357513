"""A mistyped command is answered with one sentence and exit code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from halcyon_cli.kubectl import app as kubectl
from halcyon_cli.main import app
from tests.suite.limits import limit

MISUSES = {
    "trian run.yaml": "halcyon: there is no command 'trian'; did you mean train?; see `halcyon --help`",
    "frobnicate": "halcyon: there is no command 'frobnicate'; see `halcyon --help`",
    "data sats run.yaml": "halcyon data: there is no command 'sats'; did you mean stats?; see `halcyon data --help`",
    "--verison": "halcyon: there is no option --verison; did you mean --version?; see `halcyon --help`",
    "train --divice cpu run.yaml": "halcyon train: there is no option --divice; did you mean --device?; "
    "see `halcyon train --help`",
    "train run.yaml --checkpoint_root x": (
        "halcyon train: there is no option --checkpoint_root; did you mean --checkpoint-root?; see `halcyon train "
        "--help`"
    ),
    "train run.yaml -x": "halcyon train: there is no option -x; see `halcyon train --help`",
    "train": "halcyon train: missing argument 'RUN.YAML'; see `halcyon train --help`",
    "train run.yaml --device gpu": "halcyon train: invalid value for '--device': 'gpu' is not one of 'cpu'; "
    "see `halcyon train --help`",
    "train run.yaml --device": "halcyon: option '--device' requires an argument; see `halcyon --help`",
    "checkpoints list a b c": "halcyon checkpoints list: 2 arguments too many: b c; see `halcyon "
    "checkpoints list --help`",
    "validate a b": "halcyon validate: 1 argument too many: b; see `halcyon validate --help`",
}


@pytest.mark.parametrize("command", MISUSES)
def test_a_misuse_is_reported_in_one_sentence(command: str) -> None:
    result = CliRunner().invoke(app, command.split())
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"{MISUSES[command]}\n")


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
