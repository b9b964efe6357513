"""The rows of the optional features of a run."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path

import pytest

from halcyon.run.callback import Callback
from halcyon.run.features import FEATURES, Feature, features_of, found
from halcyon_api.reading import parse_run
from tests.trainer.support.process_groups import run_document


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.section)
def test_a_row_names_what_exists(feature: Feature, tmp_path: Path) -> None:
    attrgetter(feature.section)(parse_run(run_document(tmp_path)).spec)
    assert issubclass(found(feature.callback), Callback)
    assert not feature.read or callable(found(feature.read))


def test_a_run_has_the_features_that_its_document_asks_for(tmp_path: Path) -> None:
    document = run_document(tmp_path)
    plain = len(features_of(parse_run(document).spec))
    document["spec"]["export"] = {"everySteps": 7}
    assert len(features_of(parse_run(document).spec)) == plain + 1
