"""docs/exactness.md shows the recorded figures of all present cases."""

from __future__ import annotations

from pathlib import Path

import pytest

from halcyon_api.spec.model import FAMILIES
from tests.trainer.exactness.page import ORIGINAL, PAGE, at_most, losses_case, page
from tests.trainer.exactness.record import read, write
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


def test_a_family_that_is_not_measured_shows_as_such() -> None:
    kinds = [kind for kind in FAMILIES if kind != "custom"]
    lines = [line for line in page({}).splitlines() if line.startswith(tuple(f"| `{kind}` " for kind in kinds))]
    assert [line.split("`")[1] for line in lines] == kinds
    assert all(line.count("not measured") == (2 if f"`{ORIGINAL}`" in line else 4) for line in lines)


@pytest.mark.parametrize(
    ("figure", "text"), [(0.0, "0"), (1.0e-6, "1e-6"), (1.01e-6, "2e-6"), (9.5e-7, "1e-6"), (4.768e-7, "5e-7")]
)
def test_figures_are_rounded_up(figure: float, text: str) -> None:
    assert at_most(figure) == text


def test_a_figure_replaces_the_former_one_of_its_case(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    write("logits", "b", 1.23e-7, file)
    write("logits", "a", 2.0, file)
    write("logits", "b", 4.56e-7, file)
    write("import", "a", 12, file)
    assert read(file) == {"import": {"a": 12}, "logits": {"a": 2.0, "b": 4.6e-7}}
