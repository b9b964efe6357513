"""The table of families: a row for each section of ``spec.model``, and no other file is loaded for it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic.alias_generators import to_camel

from halcyon.models.registry import family_of
from halcyon_api.edits.classes import section_of
from halcyon_api.spec.model import ModelSpec
from tests.families import SMALL_FAMILIES


@pytest.mark.parametrize("kind", ModelSpec.kinds())
def test_every_section_has_a_family(kind: str) -> None:
    assert family_of(to_camel(kind)).section is section_of(ModelSpec.model_fields[kind].annotation)


@pytest.mark.parametrize("kind", SMALL_FAMILIES)
def test_a_section_says_its_family(kind: str) -> None:
    spec = ModelSpec.model_validate({kind: SMALL_FAMILIES[kind]})
    assert ModelSpec.of(spec.section) == spec


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
