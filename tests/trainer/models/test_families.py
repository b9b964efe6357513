"""The table of families: a row for each section of ``spec.model``, and no other file is loaded for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from halcyon.models.registry import family_of
from halcyon_api.spec.model import FAMILIES, read_model
from tests.families import SMALL_FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_trainer_has_every_family(family: str) -> None:
    assert family_of(family).section is FAMILIES[family]


@pytest.mark.parametrize("family", SMALL_FAMILIES)
def test_every_document_of_a_model_says_its_family(family: str) -> None:
    """Those without the defaults too: hashes of a spec are made from them."""
    spec = FAMILIES[family]() if family != "custom" else read_model(SMALL_FAMILIES[family])
    for without in ({}, {"exclude_defaults": True}, {"exclude_unset": True}):
        assert spec.model_dump(**without)["family"] == family
    assert read_model(spec.document()) == spec


def test_a_family_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no model family llamo"):
        family_of("llamo")


def test_a_family_loads_no_other_family_and_no_code_for_files() -> None:
    """A training of its own document reads no config.json and loads one family."""
    program = (
        "import sys; from halcyon.models.registry import family_of; family_of('llama');"
        "print([name for name in sys.modules if name.startswith(('halcyon.weights', 'halcyon.models.families.'))])"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert printed.strip() == str([f"halcyon.models.families{name}" for name in (".family", ".llama")])
