"""The candidates of a search, and what is tried in a given time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from halcyon.commands.planning import search
from halcyon.commands.planning.search import Changes, Row, Source, changed, mesh_candidates, tried
from halcyon_api.mesh import run_mesh
from halcyon_api.places import rows_of
from halcyon_api.reading import parse_run
from halcyon_devcluster.waiting import until
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


def test_the_other_rows_of_a_document_are_planned_as_the_operator_places_them() -> None:
    rows = [
        {"accelerator": {"type": "v5e", "topology": "2x4", "provisioning": "spot"}, "microbatches": 2},
        {"accelerator": {"type": "h100", "topology": "1x8"}, "mesh": {"ici": {"data": 2}}},
    ]
    run = parse_run(
        document(
            spec__accelerator={"type": "v6e", "topology": "2x4", "provisioning": "reservation", "reservation": "ours"},
            spec__trainer__batchSize=16,
            spec__place={"otherwise": rows},
        )
    )
    for row in rows_of(run.spec)[1:]:
        found = changed(run, search.row_changes(row))
        assert found is not None
        assert found.spec == row.model_copy(update={"place": None})


def test_the_document_is_planned_alone_before_the_others_know_whether_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Changes] = []

    def planned(source: Source, changes: Changes, seconds: float) -> Row | None:
        asked.append(changes)
        return None if changes == {"late": 1} else Row(changes, None, "no" if changes == {"bad": 1} else "")

    def candidates(fits: bool) -> list[Changes]:
        assert (asked, fits) == ([{}], False)
        return [{"bad": 1}, {"late": 1}]

    monkeypatch.setattr(search, "planned", planned)
    said: list[str] = []
    found = tried(Source(Path("run.yaml"), ()), candidates, seconds=60.0, doing=said.append)
    assert said[0] == "as the document says; left: others"
    assert [line.partition(" left: ")[2] in ("0 candidates", "1 candidate") for line in said[1:]] == [True, True]
    assert sorted(str(row.changes) for row in found.rows) == ["{'bad': 1}", "{}"]
    assert found.left == 1


PLANS = "import sys; from pathlib import Path; from halcyon.commands.planning.search import Source, planned; "


@pytest.mark.slow
def test_a_plan_ends_with_a_search_that_is_killed() -> None:
    waits = "planned(Source(Path('/dev/stdin'), ()), {}, 600)"  # nobody writes to its document
    with subprocess.Popen([sys.executable, "-c", PLANS + waits], stdin=subprocess.PIPE) as search:
        children = Path(f"/proc/{search.pid}/task/{search.pid}/children")
        until(children.read_text, timeout_seconds=60, interval_seconds=0.01, failure=lambda: "no plan has begun")
        plan = Path("/proc", children.read_text().split()[0], "stat")
        search.kill()
        until(lambda: not alive(plan), timeout_seconds=60, interval_seconds=0.01, failure=lambda: "the plan lives on")


def alive(stat: Path) -> bool:
    try:
        return ") Z " not in stat.read_text()
    except OSError:
        return False
