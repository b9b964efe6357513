"""The guides about sweeps and Levanter: each setting that they name exists."""

from __future__ import annotations

import re
from typing import Any

from halcyon_api.overrides import check_path
from halcyon_api.sweeps import parse_sweep, variants
from halcyon_api.training_run import parse_run
from tests.api.documents import document
from tests.examples.documents import REPOSITORY, shown_documents

GUIDES = REPOSITORY / "docs" / "guides"
LEVANTER = "docs/guides/from-levanter.md"
ROWS = [
    [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
    for line in (REPOSITORY / LEVANTER).read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]


def fragments(guide: str) -> list[dict[str, Any]]:
    return [found for where, found in shown_documents() if where.startswith(f"docs/guides/{guide}#") and "apiVersion" not in found]


def test_each_place_of_a_levanter_setting_is_in_the_schema() -> None:
    paths = {path for _, here in ROWS for path in re.findall(r"`(spec\.[A-Za-z0-9.\[\]]+)`", here)}
    assert len(paths) > 60
    for path in paths:
        check_path(path)


def test_each_levanter_setting_has_a_place_or_a_reason() -> None:
    assert len(ROWS) > 80
    without = [name for name, here in ROWS if "`" not in here and not here.startswith(("not ", "no ", "["))]
    assert not without


def test_the_sweeps_of_the_guide_make_valid_runs() -> None:
    found = [variants(document(spec__optimizer={"adamw": {}}), parse_sweep(fragment)) for fragment in fragments("sweeps.md")]
    assert [len(sweep) for sweep in found] == [6, 20, 2]
    for variant in (variant for sweep in found for variant in sweep):
        parse_run(variant.document)
