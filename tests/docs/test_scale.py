"""The simulated run on many hosts agrees with the formula of `halcyon plan`, and the page has its tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from docs.simulate_scale import EVERY, Costs, Kind, Mechanism, Run, rows, simulated
from halcyon.commands.planning.estimate import goodput

PAGE = Path(__file__).parents[2] / "docs/scale.md"


@pytest.mark.parametrize("hosts", [16, 256, 2048, 4096])
def test_the_simulated_goodput_is_near_the_formula(hosts: int) -> None:
    run = Run(hosts, 405e9, Costs(shared=0.0, free=1.0))
    days = run.mean / 86_400
    found, save = simulated(run, 2000 * days), max(run.save.values())
    formula = goodput(
        stops_per_day=1 / days, blocked_seconds=run.blocked, save_seconds=save, down_seconds=run.restart("machine")
    )
    assert (found.goodput, found.waits) == (pytest.approx(formula.goodput, abs=0.01), 0)


def test_failures_that_many_hosts_share_wait_for_hosts() -> None:
    run = Run(256, 70e9, Costs(shared=1.0, free=0.0, stops_of_host=5 / 256))
    found = simulated(run, 1000)
    assert found.waits / found.stops == pytest.approx(run.costs.repair, rel=0.2)
    assert simulated(replace(run, costs=replace(run.costs, free=0.5)), 1000).waits < found.waits / 10


@pytest.mark.parametrize(
    ("mechanism", "kind", "part"),
    [
        ("in place", "process", "pods"),
        ("in place", "process", "container"),
        ("in place", "machine", "pods"),
        ("silent nodes", "machine", "notice"),
        ("memory tier", "process", "restore"),
        ("spares", "machine", "container"),
        ("one pod", "broken", "pods"),
        ("one pod", "broken", "restore"),
    ],
)
def test_each_mechanism_shortens_its_part_of_a_restart(mechanism: Mechanism, kind: Kind, part: str) -> None:
    run = Run(16_384, 2e12, Costs(), EVERY)
    assert run.parts(kind)[part] < replace(run, has=EVERY - {mechanism}).parts(kind)[part]
    assert simulated(run, 54).goodput > simulated(replace(run, has=EVERY - {mechanism}), 54).goodput


def test_snapshots_are_lost_with_all_pods_and_with_a_rack_of_the_only_slice() -> None:
    run = Run(256, 70e9, Costs(), EVERY)
    assert not replace(run, has=EVERY - {"one pod"}).keeps_memory("broken")
    assert (run.keeps_memory("broken"), run.keeps_memory("machine", 16)) == (True, False)
    assert replace(run, hosts=512).keeps_memory("machine", 16)
    assert run.blocked / run.intervals()[1] <= 0.01


def test_the_page_has_the_tables() -> None:
    assert "\n".join(rows(Costs(), 54.0)) in PAGE.read_text(encoding="utf-8"), (
        "run python docs/simulate_scale.py --page docs/scale.md"
    )
