"""The page of programs is made from plans; pure, so no compiler is needed."""

from __future__ import annotations

import re

from tests.programs.page import PAGE, tiles_of
from tests.programs.rows import GPUS, OVERLAP, PENDING, ROWS


def test_documents_leave_less_than_a_third_of_the_tiles_of_the_backward_kernels() -> None:
    text = PAGE.read_text()
    shares = {row.name: tiles_of(row) for row in ROWS if row.accelerator in GPUS}
    wide = {"b200-hybrid"}
    """Heads of 256 features: Triton's kernel, which leaves none out."""
    assert {name for name, share in shares.items() if int(share.removesuffix("%")) > 30} == wide
    assert all(f"| {share} |" in text for share in shares.values())


def test_every_row_is_on_the_page_and_every_expectation_names_a_row() -> None:
    names = {row.name for row in ROWS}
    assert set().union(*PENDING.values(), OVERLAP) <= names
    assert len(
        re.findall(rf"^\| ({'|'.join(sorted({row.accelerator for row in ROWS}))}) \|", PAGE.read_text(), re.MULTILINE)
    ) == len(names)
