"""A config.json in the shape of a published model is read as the class in transformers reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon.models.families.lookup import form_of_config, published_forms
from halcyon.models.published.config import ConfigReader
from tests.trainer.models.parity import FOLDER

PUBLISHED: dict[str, dict[str, Any]] = json.loads((FOLDER / "published.json").read_text())
"""Each config.json, and what transformers reads; see goldens/make_published.py."""


def rotation(entries: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions without keys that change no number."""
    found = {name: rotation(value) if isinstance(value, dict) else value for name, value in entries.items()}
    if found.get("partial_rotary_factor") == 1.0:
        del found["partial_rotary_factor"]
    return {
        name: value
        for name, value in found.items()
        if value not in (None, 0) and name != "type" and not name.startswith("mrope_")
    }


def test_every_family_has_a_published_config() -> None:
    assert {form_of_config(ConfigReader(case["config"])).model_type for case in PUBLISHED.values()} == {
        one.model_type for one in published_forms()
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read_as_in_transformers(name: str) -> None:
    config, expected = ConfigReader(PUBLISHED[name]["config"]), PUBLISHED[name]["read"]
    form = form_of_config(config)
    config = form.completed(config)
    written = form.write(form.read(config), config.integer(form.positions))
    written["vocab_size"] = config.integer("vocab_size")
    if "rope_parameters" in expected:
        assert rotation(written.pop("rope_parameters")) == rotation(expected["rope_parameters"])
    same_by_another_value = {
        "num_nextn_predict_layers": 0,  # layers that are not exported
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),  # a run has no dropout
        "reorder_and_upcast_attn": False,  # changes the rounding of float16 alone
        **({"n_inner": 4 * written["n_embd"]} if "n_embd" in written and expected["n_inner"] is None else {}),
        **(
            {"head_dim": written["hidden_size"] // written["num_attention_heads"]}
            if expected.get("head_dim", 0) is None
            else {}
        ),
        **({"hidden_activation": expected.get("hidden_act")} if expected.get("hidden_activation", "") is None else {}),
        **({"sliding_window": written.get("sliding_window")} if expected.get("use_sliding_window") is False else {}),
    }
    for key, value in written.items():
        if key in expected:
            assert value in (expected[key], same_by_another_value.get(key, expected[key])), key
