"""Tests that share a fixture run on one worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.suite.limits import limit

CONFTEST = """
import json, os, pytest
from tests.suite.groups import set_groups

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items, config):
    set_groups(items, config)

@pytest.fixture
def recorded(request, pytestconfig):
    path = pytestconfig.rootpath / f"{request.path.stem}-{request.node.originalname}-{os.environ['PYTEST_XDIST_WORKER']}.json"
    path.write_text(json.dumps([request.path.stem, request.node.originalname, os.environ["PYTEST_XDIST_WORKER"]]))
"""
TESTS = """
import pytest

def test_one(recorded): pass
def test_two(recorded): pass
def test_three(recorded): pass

@pytest.mark.xdist_group("shared")
@pytest.mark.parametrize("case", ["a@b", "c"])
def test_shared(recorded, case): pass
"""


@pytest.mark.slow
def test_a_file_and_a_group_each_stay_on_one_worker(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for name in ("first", "second"):
        (tmp_path / f"test_{name}.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\npythonpath = {Path(__file__).parents[2]}\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "3",
        "--dist",
        "loadgroup",
        "-p",
        "no:cacheprovider",
        str(tmp_path),
    ]
    command[3:3] = ["-p", "xdist"]
    alone = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # four processes would import all plugins
    done = subprocess.run(
        command, cwd=tmp_path, env=alone, capture_output=True, text=True, check=False, timeout=limit(120)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    groups = [
        {worker for file, test, worker in ran if file == "test_first" and test != "test_shared"},
        {worker for file, test, worker in ran if file == "test_second" and test != "test_shared"},
        {worker for _, test, worker in ran if test == "test_shared"},
    ]
    assert [len(workers) for workers in groups] == [1, 1, 1]
    assert len(ran) == 8
