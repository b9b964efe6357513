"""How the launcher judges the ends of hosts, which are shells here. Real hosts: tests/trainer/run/test_launch.py."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from halcyon.commands.launch import Hosts, remote_command
from halcyon.commands.main import app
from halcyon_api.ends import ExitCode
from tests.api.documents import document


def ended(*scripts: str, step: float = 1.0) -> tuple[int, list[str]]:
    """The exit code of a run on hosts that run these scripts, and what was said. Each look at the clock takes `step`."""
    said: list[str] = []
    ticks = itertools.count(0.0, step)
    commands = [("sh", "-c", script) for script in scripts]
    names = [f"h{number}" for number in range(len(scripts))]
    return Hosts(names, commands, "secret", said.append, lambda: next(ticks)).run(), said


STAYS = "cat >/dev/null; exit 42"
"""A host that ends at a notice."""


def test_the_run_is_done_when_all_hosts_are() -> None:
    assert ended("read -r token; test $token = secret", "true") == (ExitCode.DONE, [])


def test_the_first_bad_end_ends_the_others_and_is_that_of_the_run() -> None:
    assert ended(STAYS, "exit 80") == (80, [])


@pytest.mark.parametrize("end", ["exit 255", "exit 137", "kill -9 $$"], ids=["connection", "shell", "signal"])
def test_a_lost_host_is_started_again(end: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code, said = ended("true", f"test -e {mark} && exit 0; touch {mark}; {end}")
    assert (code, len(said)) == (ExitCode.DONE, 1)
    assert said[0].startswith("host h1 is lost (exit code ")


@pytest.mark.parametrize(("step", "code", "losses"), [(0.5, 255, 5), (100.0, ExitCode.DONE, 8)], ids=["soon", "late"])
def test_a_host_that_is_lost_soon_again_and_again_ends_the_run(
    step: float, code: int, losses: int, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    found, said = ended("true", f"echo >> {tries}; test $(wc -l < {tries}) -gt 8 && exit 0; exit 255", step=step)
    assert (found, len(said)) == (code, losses)


def test_the_program_of_a_host_ends_with_the_connection_and_its_code_is_kept() -> None:
    train = (
        "sh",
        "-c",
        'trap "exit 42" TERM; test "$HALCYON_SAVE_TOKEN" = secret || exit 9; while :; do sleep 0.05; done',
    )
    said: list[str] = []
    hosts = Hosts(["a", "b"], [("sh", "-c", remote_command(train)), ("sh", "-c", "exit 81")], "secret", said.append)
    assert hosts.run() == 81
    assert not hosts._running


def test_hosts_that_the_document_does_not_divide_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(document()))
    result = CliRunner().invoke(app, ["launch", str(path), "--hosts", "a,b,c"])
    assert result.exit_code == ExitCode.BAD_CONFIGURATION
    assert "2 slices has 2 hosts of 2 devices, which 3 processes cannot share" in result.stderr
