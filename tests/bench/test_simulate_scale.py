"""The simulated run on many hosts agrees with the formula of `halcyon plan`, and the page has its table."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.append(str(FOLDER))

from simulate_scale import Costs, rows, run_of, simulated  # noqa: E402

from halcyon.commands.planning.estimate import goodput  # noqa: E402 - the path is set above

PAGE = FOLDER.parents[1] / "docs/scale.md"


@pytest.mark.parametrize("hosts", [16, 256, 2048, 4096])
def test_the_simulated_goodput_is_near_the_formula(hosts: int) -> None:
    costs = Costs(shared=0.0, spares=1.0)
    run, stops = run_of(hosts, 405e9, costs), hosts * costs.hosts_a_day
    account = simulated(run, costs, 2000 / stops, stops)
    formula = goodput(
        stops_per_day=stops, blocked_seconds=run.blocked, save_seconds=run.save, down_seconds=run.restart
    ).goodput
    assert account.goodput == pytest.approx(formula, abs=0.01)
    assert account.waits == 0


def test_failures_that_many_hosts_share_wait_for_hosts() -> None:
    costs = Costs(shared=1.0, spares=0.0)
    run = run_of(256, 70e9, costs)
    account = simulated(run, costs, 1000, 5.0)
    assert account.waits / account.stops == pytest.approx(costs.repair, rel=0.2)
    spared = simulated(run, dataclasses.replace(costs, spares=0.5), 1000, 5.0)
    assert spared.waits < account.waits / 10


def test_the_page_has_the_table() -> None:
    assert "\n".join(rows(Costs(), 54.0)) in PAGE.read_text(encoding="utf-8"), (
        "run python tests/bench/simulate_scale.py --page docs/scale.md"
    )
