"""The text model of a model with images: its configuration is an object of its own, and its tensors have other
names.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from halcyon.weights.folder import read_config
from tests.trainer.models.parity import Golden
from tests.trainer.weights.folders import exported, imported, same_bits, store_of, write_folder


def config_of(tmp_path: Path, config: dict[str, Any]) -> Any:
    (tmp_path / "config.json").write_text(json.dumps(config))
    return read_config(store_of(tmp_path))


GEMMA: dict[str, Any] = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "initializer_range": 0.02,
    "image_token_index": 262_144,
    "vision_config": {"hidden_size": 1152, "num_attention_heads": 16, "num_hidden_layers": 27},
}
GEMMA_TEXT: dict[str, Any] = {
    "hidden_size": 2560,
    "intermediate_size": 10_240,
    "model_type": "gemma3_text",
    "num_hidden_layers": 34,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}
"""The entries of Gemma 3 4B; the class in transformers has the others."""


def test_a_gemma_3_with_images_has_the_defaults_of_its_class(tmp_path: Path) -> None:
    small = config_of(tmp_path, GEMMA | {"text_config": GEMMA_TEXT})
    section = small.spec
    assert (section.num_attention_heads, section.num_key_value_heads, section.head_size) == (8, 4, 256)
    assert (small.tokens, small.positions) == (262_208, 131_072)
    assert (section.rope_theta, section.rope_scaling.factor, section.sliding_window) == (1_000_000.0, 8.0, 1024)
    heads = {"num_attention_heads": 32, "num_key_value_heads": 16, "head_dim": 128, "query_pre_attn_scalar": 168}
    large = config_of(tmp_path, GEMMA | {"text_config": GEMMA_TEXT | heads}).spec
    assert (large.num_attention_heads, large.num_key_value_heads, large.head_size) == (32, 16, 128)


@pytest.mark.parametrize(
    ("outer", "inner", "tied"), [(False, True, False), (True, False, True), (None, False, False), (None, None, True)]
)
def test_the_outer_object_says_whether_the_head_is_tied(
    tmp_path: Path, outer: bool | None, inner: bool | None, tied: bool
) -> None:
    name = "tie_word_embeddings"
    text = GEMMA_TEXT | ({} if inner is None else {name: inner})
    config = GEMMA | {"text_config": text} | ({} if outer is None else {name: outer})
    assert config_of(tmp_path, config).spec.tie_word_embeddings is tied


CASES = {
    "gemma-3": ("gemma3", "Gemma3ForConditionalGeneration", "language_model.model.", "vision_tower.x"),
    "gemma-3-new": ("gemma3", "Gemma3ForConditionalGeneration", "model.language_model.", "model.vision_tower.x"),
    "gemma-3-untied": ("gemma3-untied", "Gemma3ForConditionalGeneration", "language_model.model.", "vision_tower.x"),
    "qwen-3.5": ("qwen3.5", "Qwen3_5ForConditionalGeneration", "model.language_model.", "model.visual.x"),
    "qwen-2.5-vl": ("qwen2", "Qwen2_5_VLForConditionalGeneration", "model.", "visual.x"),
    "qwen-2.5-vl-new": ("qwen2", "Qwen2_5_VLForConditionalGeneration", "model.language_model.", "model.visual.x"),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=name, marks=() if name == "gemma-3" else pytest.mark.variant)
        for name, case in CASES.items()
    ],
)
def test_the_text_model_of_a_model_with_images_is_imported(case: tuple[str, str, str, str], tmp_path: Path) -> None:
    name, architecture, prefix, other = case
    golden = Golden.load(name)
    weights, text = golden.named("weight"), json.loads(golden.arrays["config"].tobytes())
    renamed = {
        key.replace("model.", prefix, 1) if key.startswith("model.") else key: array for key, array in weights.items()
    }
    if golden.spec.tie_word_embeddings:  # transformers saved it in some versions
        name = "lm_head.weight" if prefix.startswith("model.") else "language_model.lm_head.weight"
        renamed |= {name: weights["model.embed_tokens.weight"]}
    elif prefix == "language_model.model.":
        renamed = {
            f"language_model.{key}" if key.startswith("lm_head.") else key: array for key, array in renamed.items()
        }
    del text["architectures"]
    config = {"architectures": [architecture], "text_config": text, "vision_config": {"hidden_size": 3}}
    if prefix == "model.":  # older files have one object, and a name of their own for the rotation
        config |= {**text, **config, "rope_scaling": {"type": "mrope", "mrope_section": [1, 1, 2]}}
        del config["text_config"], config["rope_parameters"]
    imported(write_folder(tmp_path / "model", renamed | {other: np.zeros(3, np.float32)}, config), tmp_path / "root")
    if golden.spec.tie_word_embeddings:
        del renamed[name]
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), renamed | {other: np.zeros(3, np.float32)})


def test_an_adapter_has_the_names_of_the_model_with_images(tmp_path: Path) -> None:
    golden = Golden.load("gemma3")
    weights, text = golden.named("weight"), json.loads(golden.arrays["config"].tobytes())
    renamed = {key.replace("model.", "model.language_model.", 1): array for key, array in weights.items()}
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": text,
        "vision_config": {"hidden_size": 3},
    }
    base = write_folder(tmp_path / "model", renamed, config)
    name, module = "model.layers.0.self_attn.q_proj.weight", "model.language_model.layers.0.self_attn.q_proj"
    outputs, inputs = weights[name].shape
    noise = np.random.default_rng(0)
    down, up = (noise.standard_normal(shape).astype(np.float32) for shape in ((2, inputs), (outputs, 2)))
    (tmp_path / "adapter").mkdir()
    factors = {f"base_model.model.{module}.lora_A.weight": down, f"base_model.model.{module}.lora_B.weight": up}
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 1,
        "target_modules": ["q_proj"],
        "alpha_pattern": {"language_model.*": 3},
    }
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    imported(base, tmp_path / "root", adapter=store_of(tmp_path / "adapter"))
    found = exported(tmp_path / "root", tmp_path / "out")
    np.testing.assert_allclose(
        found[name], weights[name] + 1.5 * up @ down, rtol=1e-3, atol=1e-3
    )  # the files have float16
    assert same_bits(
        {key: array for key, array in found.items() if key != name},
        {key: weights[key] for key in weights if key != name},
    )


def test_experts_of_a_layer_in_one_tensor_are_imported(tmp_path: Path) -> None:
    """As in the published files of Qwen 3.5. Layers that predict further tokens may have another form."""
    golden = Golden.load("qwen3.5-moe")
    weights, text = golden.named("weight"), json.loads(golden.arrays["config"].tobytes())
    experts: defaultdict[str, dict[str, dict[int, np.ndarray]]] = defaultdict(lambda: defaultdict(dict))
    renamed: dict[str, np.ndarray] = {}
    for name, array in weights.items():
        key = name.replace("model.", "model.language_model.", 1)
        found = re.fullmatch(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight", key)
        if found is None:
            renamed[key] = array
        else:
            experts[found[1]][found[3]][int(found[2])] = array
    assert experts
    for prefix, parts in experts.items():
        gates, ups, downs = (
            np.stack([parts[part][number] for number in range(len(parts[part]))]) for part in ("gate", "up", "down")
        )
        renamed |= {f"{prefix}.gate_up_proj": np.concatenate((gates, ups), 1), f"{prefix}.down_proj": downs}
    config = {"architectures": ["Qwen3_5MoeForConditionalGeneration"], "text_config": text}
    further = {
        f"mtp.layers.0.mlp.experts.{name}": np.zeros(3, np.float32) for name in ("gate_up_proj", "0.gate_proj.weight")
    }
    imported(write_folder(tmp_path / "fused", renamed | further, config), tmp_path / "root")
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), weights | further)
    imported(write_folder(tmp_path / "separate", weights | further, config), tmp_path / "other")
    assert same_bits(exported(tmp_path / "other", tmp_path / "again"), weights | further)
