"""The output of the commands for programs, and without a terminal."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from halcyon_cli.cluster import Runs
from halcyon_cli.kubectl import app
from halcyon_cli.main import app as halcyon_app
from tests.cli.api_server import Server, run

LONG = "a-run-whose-name-has-forty-characters-ab"


@pytest.fixture
def cluster(server: Server, runs: Runs) -> Server:
    server.run = run(5, "Running")
    server.run["metadata"] |= {"name": LONG, "namespace": "a-namespace-of-a-team-with-a-long-name"}
    return server


@pytest.mark.usefixtures("cluster")
def test_status_as_json() -> None:
    one = CliRunner().invoke(app, ["status", LONG, "-o", "json"])
    assert one.exit_code == 0, one.output
    found = json.loads(one.stdout)
    assert (found["name"], found["namespace"], found["status"]["phase"]) == (
        LONG,
        "a-namespace-of-a-team-with-a-long-name",
        "Running",
    )


def test_the_version_and_the_two_groups_of_commands() -> None:
    for application in (app, halcyon_app):
        assert CliRunner().invoke(application, ["--version"]).stdout.startswith("halcyon ")
    shown = CliRunner().invoke(halcyon_app, ["--help"], env={"COLUMNS": "100"}).stdout
    here, cluster = shown.partition("In a cluster")[::2]
    assert "On this machine" in here
    for name in ("train", "validate", "doctor", "render", "checkpoints", "data", "tokenizer", "report", "compare"):
        assert f"│ {name} " in here
    for name in ("status", "logs", "suspend", "resume", "restart"):
        assert f"│ {name} " in cluster
