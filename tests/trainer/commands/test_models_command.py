"""``halcyon models`` lists the families."""

from __future__ import annotations

from typer.testing import CliRunner

from halcyon.commands.main import app
from halcyon_api.families_reference import rows
from halcyon_api.spec.model import FAMILIES


def test_every_family_is_listed_with_its_models_and_fields() -> None:
    printed = CliRunner().invoke(app, ["models"])
    assert printed.exit_code == 0
    words = printed.stdout.split()
    for row in rows():
        assert row.family in words
        assert row.models.split()[0] in words
    assert "attnLogitSoftcapping" in printed.stdout
    assert "numHiddenLayers" in printed.stdout


def test_every_section_has_a_row() -> None:
    assert [row.family for row in rows()] == list(FAMILIES)
