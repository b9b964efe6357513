"""A config.json that leaves keys out has the defaults of the class in transformers, and each form of rotary positions
is read as there.
"""

from __future__ import annotations

from typing import Any

import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.models.families.lookup import published_of_config, published_of_section
from halcyon.models.published.config import ConfigReader
from halcyon_api.spec.families.rope import RopeScaling

SIZES: dict[str, Any] = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 24,
    "num_attention_heads": 32,
    "moe_intermediate_size": 8,
    "vocab_size": 50,
    "max_position_embeddings": 64,
}


def read(architecture: str, **changes: Any) -> Any:
    config = ConfigReader({"architectures": [architecture], **SIZES, **changes})
    return published_of_config(config).read(config)


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [
        ("LlamaForCausalLM", 32),
        ("MistralForCausalLM", 8),
        ("MixtralForCausalLM", 8),
        ("GemmaForCausalLM", 16),
        ("Gemma2ForCausalLM", 4),
        ("Qwen3ForCausalLM", 32),
        ("Qwen3MoeForCausalLM", 4),
        ("GptOssForCausalLM", 8),
        ("Glm4MoeForCausalLM", 8),
        ("Qwen3NextForCausalLM", 2),
        ("Qwen3_5ForCausalLM", 4),
    ],
)
def test_absent_key_value_heads_are_those_of_the_class_and_null_means_one_for_each_head(
    architecture: str, heads: int
) -> None:
    assert read(architecture).key_value_heads == heads
    assert read(architecture, num_key_value_heads=None).key_value_heads == 32


def test_other_absent_keys_have_the_defaults_of_the_class() -> None:
    gpt_oss = read("GptOssForCausalLM")
    assert (gpt_oss.head_size, gpt_oss.rope_scaling.rope_type, gpt_oss.rope_scaling.truncate) == (64, "yarn", False)
    assert read("GptOssForCausalLM", rope_scaling={"rope_type": "default"}).rope_scaling is None
    apertus = read("ApertusForCausalLM", rope_theta=5.0)
    assert (apertus.rope_theta, apertus.rope_scaling.rope_type, apertus.hidden_act) == (12_000_000.0, "llama3", "xielu")
    deepseek = read("DeepseekV3ForCausalLM")
    assert (deepseek.q_lora_rank, deepseek.routed_scaling_factor) == (1536, 2.5)
    assert read("DeepseekV3ForCausalLM", q_lora_rank=None).q_lora_rank is None
    assert read("Qwen3_5ForCausalLM").num_experts == 0
    assert read("Qwen3NextForCausalLM", full_attention_interval=2).layers_by_type == (
        "linear_attention",
        "full_attention",
    )


@pytest.mark.parametrize("architecture", ["Olmo3ForCausalLM", "Gemma3ForCausalLM", "LlamaForCausalLM"])
@pytest.mark.parametrize("truncate", [True, False, None])
def test_the_written_rounding_of_a_ramp_is_read_again(architecture: str, truncate: bool | None) -> None:
    scaling = RopeScaling(rope_type="yarn", factor=4.0, original_max_position_embeddings=16, truncate=truncate)
    section = read(architecture).model_copy(update={"rope_scaling": scaling})
    written = published_of_section(section).write(section, 64)
    assert read(architecture, **written).rope_scaling == scaling
    place = written["rope_parameters"]
    assert place.get("truncate") == truncate, "transformers looks for it at the top of rope_parameters in every class"


def test_all_layers_of_a_qwen_may_have_windows() -> None:
    assert (
        read("Qwen2ForCausalLM", use_sliding_window=True, max_window_layers=0).layers_by_type
        == ("sliding_attention",) * 2
    )


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}


def test_rotary_positions_are_read_where_transformers_reads_them() -> None:
    llama = read("LlamaForCausalLM", rope_scaling=YARN, original_max_position_embeddings=8)
    assert llama.rope_scaling.original_max_position_embeddings == 8, "the key beside the object comes first"
    assert read("LlamaForCausalLM", rope_scaling=YARN | {"truncate": None}).rope_scaling.truncate is False
    assert read("LlamaForCausalLM", rope_scaling=YARN | {"factor": None}).rope_scaling.factor == 4.0
    deepseek = read("DeepseekV3ForCausalLM", rope_scaling=YARN | {"mscale": 0, "mscale_all_dim": 0.0, "beta_slow": 0})
    assert deepseek.rope_scaling == RopeScaling(**YARN), "a zero is as an absent entry"
    nested = {
        "full_attention": YARN | {"rope_theta": 7.0, "truncate": False},
        "sliding_attention": {"rope_type": "default", "rope_theta": 9.0},
    }
    olmo = read("Olmo3ForCausalLM", rope_parameters=nested)
    assert (olmo.rope_theta, olmo.rope_local_base_freq, olmo.rope_scaling.truncate) == (7.0, 9.0, None)
    beside = read("Olmo3ForCausalLM", rope_parameters=nested | {"truncate": False}).rope_scaling
    assert beside.truncate is False, "it stands beside the objects of the kinds of layers"
    for architecture in ("Olmo3ForCausalLM", "Gemma3ForCausalLM"):
        flat = read(
            architecture, rope_scaling=YARN | {"truncate": False}, original_max_position_embeddings=8
        ).rope_scaling
        assert (flat.truncate, flat.original_max_position_embeddings) == (None, 16), "both classes look at neither"
    glm = read(
        "Glm4MoeForCausalLM", head_dim=8, rope_parameters=YARN | {"rope_theta": 7.0, "partial_rotary_factor": 0.75}
    )
    assert (glm.partial_rotary_factor, glm.rope_scaling.factor) == (0.75, 4.0)
    assert read("LlamaForCausalLM", rope_scaling=YARN, rope_parameters={}).rope_scaling.factor == 4.0
    for changes in ({"factor": 2.0}, {"rope_type": "linear"}):
        name, value = next(iter(changes.items()))
        with pytest.raises(
            BadConfiguration, match=f"{name} is {YARN[name]} in rope_parameters and {value} in rope_scaling"
        ):
            read("LlamaForCausalLM", rope_parameters=YARN, rope_scaling=YARN | changes)
    with pytest.raises(BadConfiguration, match=r"factor is 4.0 in rope_parameters and 2.0 in rope_scaling"):
        read("Olmo3ForCausalLM", rope_parameters=nested, rope_scaling=YARN | {"factor": 2.0})
    with pytest.raises(BadConfiguration, match=r"partial_rotary_factor is not 1"):
        read("LlamaForCausalLM", rope_scaling=YARN | {"partial_rotary_factor": 0.5})
    with pytest.raises(ValueError, match="the rotated features of a head"):
        read("Glm4MoeForCausalLM", head_dim=6)
