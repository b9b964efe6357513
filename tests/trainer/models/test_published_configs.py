"""A config.json in the shape of a published model is read as the class in transformers reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.models.families.lookup import published_models, published_of_config
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
    assert {published_of_config(ConfigReader(case["config"])).model_type for case in PUBLISHED.values()} == {
        one.model_type for one in published_models() if not one.images
    } - {"backpack-gpt2"}, "transformers has all but that of Levanter"


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read_as_in_transformers(name: str) -> None:
    config, expected = ConfigReader(PUBLISHED[name]["config"]), PUBLISHED[name]["read"]
    form = published_of_config(config)
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


OTHER_NAMES = frozenset(
    {"rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor"}  # parts of rope_parameters
    | {"head_dim", "hidden_activation", "experts_per_token", "num_experts"}  # other names of keys that the class has
    | {"is_encoder_decoder"}  # every class has it
    | {"global_attn_every_n_layers", "global_rope_theta", "local_rope_theta"}  # parts of layer_types, rope_parameters
    | {"intermediate_size", "norm_topk_prob", "decoder_sparse_step"}  # of Qwen 3.5, whose class has one value of each
)
"""Keys of an export that the class in transformers does not read, and whose values come from keys that it reads."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_import_takes_no_number_that_neither_its_files_nor_the_class_name(name: str) -> None:
    """Each factor of a loss is that of the files or of the class, and 0 if neither has one."""
    config, named = ConfigReader(PUBLISHED[name]["config"]), PUBLISHED[name]["read"]
    form = published_of_config(config)
    config = form.completed(config)
    section: Any = form.read(config)
    own = {"router_z_loss_coef": 0.0, "router_correction_coef": 0.0}
    assert {key: getattr(section, key, value) for key, value in own.items()} == own
    if getattr(section, "num_experts", 1) and hasattr(section, "router_aux_loss_coef"):
        at_even_load = section.router_aux_loss_coef * section.num_experts_per_tok
        factor = named.get("router_aux_loss_coef", 0.0) * section.num_experts_per_tok
        assert at_even_load == pytest.approx(named.get("aux_loss_alpha", factor))
    written = form.write(section, config.integer(form.positions))
    assert {key for key in written.keys() - named.keys() - OTHER_NAMES if written[key]} <= {
        "router_aux_loss_coef" if "aux_loss_alpha" in named else ""
    }


def test_a_balance_loss_of_deepseek_is_one_of_sequences() -> None:
    config = PUBLISHED["deepseek-v3"]["config"]
    form = published_of_config(ConfigReader(config))
    absent = {key: value for key, value in config.items() if key != "aux_loss_alpha"}
    assert form.read(ConfigReader(absent)).router_aux_loss_coef == 0.0  # type: ignore[attr-defined]
    with pytest.raises(BadConfiguration, match=r"seq_aux is false, but Halcyon computes this model only with true"):
        form.read(ConfigReader(config | {"seq_aux": False}))
    assert form.read(ConfigReader(absent | {"seq_aux": False})) == form.read(ConfigReader(absent))
