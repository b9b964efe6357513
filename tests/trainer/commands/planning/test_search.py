"""The candidates of a search, and what is tried in a given time."""

from __future__ import annotations

from pathlib import Path

import pytest

from halcyon.commands.planning import search
from halcyon.commands.planning.search import Changes, Row, Source, changed, mesh_candidates, tried
from halcyon_api.mesh import run_mesh
from halcyon_api.reading import parse_run
from tests.api.documents import document

AUTOMATIC = {"spec.trainer.microbatches": "auto", "spec.trainer.remat": "auto", "spec.trainer.offload": "auto"}


@pytest.mark.parametrize(
    ("chosen", "fits", "first"),
    [
        ({"microbatches": "auto", "remat": "auto"}, True, False),
        ({"microbatches": "auto", "remat": "auto"}, False, True),
        ({"microbatches": 2, "remat": "full"}, True, True),
    ],
)
def test_no_mesh_is_tried_twice(chosen: dict[str, object], fits: bool, first: bool) -> None:
    run = parse_run(
        document(
            spec__accelerator={"type": "v5e", "topology": "2x4", "provisioning": "spot"},
            spec__trainer={"steps": 10, "batchSize": 16, "sequenceLength": 64} | chosen,
        )
    )
    found = list(mesh_candidates(run, fits))
    assert (found[0] == AUTOMATIC) == first
    meshes = [run_mesh(one.spec) for changes in found if (one := changed(run, changes)) is not None]
    assert len(set(meshes)) == len(meshes) > 3
    assert (run_mesh(run.spec) in meshes) == first


def test_the_document_is_planned_alone_before_the_others_know_whether_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Changes] = []

    def planned(source: Source, changes: Changes, seconds: float) -> Row | None:
        asked.append(changes)
        return None if changes == {"late": 1} else Row(changes, None, "no" if changes == {"bad": 1} else "")

    def candidates(fits: bool) -> list[Changes]:
        assert (asked, fits) == ([{}], False)
        return [{"bad": 1}, {"late": 1}]

    monkeypatch.setattr(search, "planned", planned)
    found = tried(Source(Path("run.yaml"), ()), candidates, seconds=60.0)
    assert sorted(str(row.changes) for row in found.rows) == ["{'bad': 1}", "{}"]
    assert found.left == 1
