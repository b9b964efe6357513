"""Runs of the previous version: its records fit what this version computes from the same objects, so an upgrade restarts no run.

tests/cluster/test_installation.py tests the same with a whole cluster, its API server and a run that trains.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from halcyon_api.training_run import parse_run
from halcyon_operator.decide.spec_hash import attempt_spec_hash, fits
from tests.cluster import previous
from tests.examples.documents import training_runs

# Prints the previous version's records of documents: the hash, and the document as the API server stored it, with that schema's defaults.
RECORD = """
import json, sys
from halcyon_api.training_run import InvalidRun, parse_run
from halcyon_operator.decide.spec_hash import attempt_spec_hash
for document in json.load(sys.stdin):
    try:
        spec = parse_run(document).spec
    except InvalidRun:
        continue
    stored = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    print(json.dumps([attempt_spec_hash(spec), document | {"spec": stored}]))
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("previous")
    previous.unpack(folder)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(folder / name) for name in ("crds", "operator"))}
    process = subprocess.run(
        [sys.executable, "-c", RECORD],
        input=json.dumps(list(training_runs().values())),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return [(found[0], found[1]) for found in map(json.loads, process.stdout.splitlines())]


def test_no_attempt_of_the_previous_version_is_outdated(recorded: list[tuple[str, dict[str, Any]]]) -> None:
    assert {"stdlib-llama", "gpt2"} <= {document["metadata"]["name"] for _, document in recorded}
    for record, document in recorded:
        spec = parse_run(document).spec
        assert fits(record, attempt_spec_hash(spec)), document["metadata"]["name"]
        edited = spec.model_copy(update={"image": "other:2"})
        assert not fits(record, attempt_spec_hash(edited)), "an edit after the upgrade must be recognized"


def test_the_archive_of_the_previous_version_is_small_and_has_the_chart() -> None:
    assert previous.ARCHIVE.stat().st_size < 500_000
    assert Path(previous.KEPT[0]) == Path("charts/halcyon")
