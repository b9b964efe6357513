"""docs/exactness.md shows the recorded figures of all present cases."""

from __future__ import annotations

import pytest

from tests.trainer.exactness.page import ORIGINAL, PAGE, losses_case, page
from tests.trainer.exactness.record import read
from tests.trainer.models.parity import NAMES
from tests.trainer.parallel.mesh_cases import FEW, MORE

RESULTS = read()


def test_the_page_shows_the_recorded_figures() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(RESULTS), "run `python -m tests.trainer.exactness.generate`"


@pytest.mark.parametrize("table", ["logits", "gradients"])
def test_every_golden_is_recorded_and_no_other(table: str) -> None:
    assert sorted(RESULTS[table]) == sorted([*NAMES, ORIGINAL])


@pytest.mark.parametrize("table", ["import", "export"])
def test_only_present_goldens_are_recorded(table: str) -> None:
    assert set(RESULTS[table]) <= set(NAMES)


def test_only_present_meshes_are_recorded_and_all_fast_ones() -> None:
    recorded = set(RESULTS["losses"])
    assert recorded <= {losses_case(*case) for case in (*FEW, *MORE)}
    assert recorded >= {losses_case(*case) for case in FEW}
