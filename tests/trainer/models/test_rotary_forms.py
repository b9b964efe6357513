"""Rotary positions of a config.json are those of transformers, or rejected.

The goldens are of `tests.parity.rotary`.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import haliax as hax
import numpy as np
import pytest
from pydantic import ValidationError

from halcyon.host.errors import BadConfiguration
from halcyon.models.families.deepseek import _score_scale
from halcyon.models.families.lookup import published_of_config, published_of_section
from halcyon.models.parts.rotary import Rope, frequencies, magnitude
from halcyon.models.published.config import ConfigReader
from halcyon_api.spec.families.deepseek import DeepseekV3Spec
from halcyon_api.spec.families.gemma import Gemma3Spec
from halcyon_api.spec.families.olmo import Olmo3Spec
from halcyon_api.spec.families.rope import RopeScaling
from tests.parity.rotary_cases import FAMILIES, SIZES

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "goldens/rotary.json").read_text())


def read(family: str, document: dict[str, Any]) -> Any:
    """The section of a config.json with these entries."""
    architecture, needed = FAMILIES[family]
    config = ConfigReader({"architectures": [architecture], **SIZES, **needed, **document})
    return published_of_config(config).read(config)


def computed(section: Any) -> dict[str, Any]:
    """What Halcyon computes with a section, in the form of the goldens."""
    size = section.qk_rope_head_dim if isinstance(section, DeepseekV3Spec) else section.head_size
    full = Rope(section.rope_theta, section.rope_scaling, getattr(section, "partial_rotary_factor", 1.0))
    ropes = {"full_attention": full}
    if isinstance(section, Gemma3Spec | Olmo3Spec):
        ropes["sliding_attention"] = Rope(section.rope_local_base_freq or section.rope_theta)
    found = {
        name: {
            "frequencies": frequencies(rope, rope.rotated(hax.Axis("features", size)) // 2),
            "factor": magnitude(rope),
        }
        for name, rope in ropes.items()
    }
    return found | ({"scale": _score_scale(section)} if isinstance(section, DeepseekV3Spec) else {})


@pytest.mark.parametrize("family", FAMILIES)
def test_rotary_positions_are_those_of_transformers_or_refused(family: str) -> None:
    results: Counter[str] = Counter()
    for case in CASES:
        if case["family"] != family:
            continue
        try:
            section = read(family, case["document"])
        except (BadConfiguration, ValidationError):
            results["refused"] += 1
            continue
        assert case["expected"] is not None, case["document"]
        results["read"] += 1
        same(computed(section), case["expected"], case["document"])
        written = published_of_section(section).write(section, 64)
        again = read(family, written)
        names = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")
        assert all(getattr(again, name, None) == getattr(section, name, None) for name in names), (
            case["document"],
            written,
        )
    assert results["read"] >= 8


def same(found: dict[str, Any], expected: dict[str, Any], document: dict[str, Any]) -> None:
    for name, value in expected.items():
        if name == "scale":
            assert found["scale"] == pytest.approx(value), document
            continue
        assert found[name]["factor"] == pytest.approx(value["factor"]), (name, document)
        np.testing.assert_allclose(found[name]["frequencies"], value["frequencies"], 1e-5, err_msg=f"{name} {document}")


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"rope_scaling": YARN | {"attn_factor": 0.5}},
        "rope_scaling: attn_factor is 0.5, which Halcyon does not compute for rope_type"),
        ({"rope_parameters": YARN | {"extrapolation_factor": 2.0}}, "rope_parameters: extrapolation_factor is 2.0"),
        ({"rope_scaling": LINEAR | {"attention_factor": 0.7}},
        "attention_factor is 0.7, .* does not compute for rope_type linear"),
        ({"rope_scaling": YARN | {"low_freq_factor": 1.0}}, "low_freq_factor is 1.0"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}},
        "factor is 2.0, .* does not compute for rope_type default"),
        ({"rope_scaling": YARN | {"short_factor": [1.0]}}, "short_factor is"),
        ({"rope_scaling": YARN | {"of_next_year": 0}}, "of_next_year is 0"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type is dynamic"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type is longrope"),
        ({"rope_scaling": {"rope_type": "linear"}}, "has no factor, which rope_type linear needs"),
        ({"rope_scaling": LINEAR | {"type": "yarn"}}, "rope_type is linear, and type is yarn"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is not 1"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is not 1"),
        ({"rope_theta": 5.0, "rope_parameters": {"rope_theta": 7.0}},
        "rope_theta is 7.0, and 5.0 beside rope_parameters"),
        ({"rope_scaling": YARN, "rope_parameters": YARN | {"rope_theta": 7.0}},
        "rope_theta is 7.0 in rope_parameters and 10000.0"),
        ({"rope_scaling": YARN, "rope_parameters": YARN | {"beta_fast": 8.0}},
        "beta_fast is 8.0 in rope_parameters and None"),
        ({"rope_parameters": {"full_attention": YARN, "sliding_attention": LINEAR}}, "full_attention is"),
        ({"rope_scaling": YARN | {"factor": float("inf")}}, "factor: Input should be a finite number"),
        ({"rope_theta": float("nan")}, "rope_theta is NaN, not a finite number"),
    ],
)  # fmt: skip
def test_an_entry_that_is_not_computed_is_refused(document: dict[str, Any], sentence: str) -> None:
    with pytest.raises((BadConfiguration, ValidationError), match=sentence):
        read("llama", document)


def test_entries_that_change_nothing_are_read() -> None:
    """Among them are those of published files: factors of YaRN that are 1, and the positions of images."""
    plain = read("llama", {"rope_scaling": YARN})
    for more in (
        {"attn_factor": 1},
        {"extrapolation_factor": 1.0},
        {"mrope_section": [2, 3, 3]},
        {"type": "yarn"},
        {"short_factor": None},
    ):
        assert read("llama", {"rope_scaling": YARN | more}) == plain
    assert read("llama", {"rope_parameters": {"partial_rotary_factor": 1.0}, "partial_rotary_factor": 1}) == read(
        "llama", {}
    )
    deepseek = read("deepseek_v3", {"rope_scaling": LINEAR | {"mscale_all_dim": 0.4}})
    assert deepseek.rope_scaling.mscale_all_dim == 0.4, "it scales the scores"
    assert published_of_section(deepseek).write(deepseek, 64)["rope_scaling"]["mscale_all_dim"] == 0.4


def test_an_export_has_only_the_entries_of_its_kind() -> None:
    """A document may have fields of another kind; an import would reject them."""
    section = read("llama", {}).model_copy(update={"rope_scaling": RopeScaling(**LINEAR, beta_fast=8.0, mscale=0.7)})
    written = published_of_section(section).write(section, 64)
    assert written["rope_scaling"] == LINEAR
    assert written["rope_parameters"] == LINEAR | {"rope_theta": 10_000.0}
