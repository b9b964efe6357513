"""The rows of the optional features of a run."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from halcyon.run.callback import Callback
from halcyon.run.features import FEATURES, Feature, features_of, found
from halcyon_api.reading import parse_run
from tests.trainer.support.process_groups import run_document


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.section)
def test_a_row_names_what_exists(feature: Feature, tmp_path: Path) -> None:
    attrgetter(feature.section)(parse_run(run_document(tmp_path)).spec)
    assert issubclass(found(feature.callback), Callback)


def test_a_run_has_the_features_that_its_document_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = run_document(tmp_path)
    monkeypatch.setattr("halcyon.run.features.found", lambda name: lambda settings, setup: name)

    def made() -> list[Any]:
        return list(features_of(SimpleNamespace(place=SimpleNamespace(spec=parse_run(document).spec))))

    plain = made()
    document["spec"]["export"] = {"everySteps": 7}
    assert made() == [*plain, "exports:Exports"]
