"""Adapters of peft are added to the weights of their model as peft adds them, or rejected with the field and the
fix.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import halcyon
from halcyon.host.errors import BadConfiguration
from halcyon.host.limits import apart
from halcyon.host.limits.apart import OverLimit
from halcyon.weights.folder import ModelFolder, model_shapes, read_config
from halcyon.weights.peft_config import read_adapter_config
from halcyon.weights.peft_files import PeftFolder
from halcyon.weights.reading import read_arrays
from tests.arrays import load_arrays
from tests.trainer.weights.folders import GOLDENS, store_of

ADAPTERS = GOLDENS / "adapters"
CASES = sorted(path.name for path in ADAPTERS.iterdir())
DOWN = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def model_with(base: Path, adapter: Path) -> Any:
    """The model of a folder with an adapter added."""
    store = store_of(base)
    config = read_config(store)
    shapes = model_shapes(config.spec, config.tokens, config.positions)
    return read_arrays(ModelFolder(store, config, shapes, adapter=PeftFolder(store_of(adapter))).read, shapes)


@pytest.mark.parametrize(
    "case",
    [
        case if case in ("patterns", "gpt2-dora-outputs-first") else pytest.param(case, marks=pytest.mark.variant)
        for case in CASES
    ],
)
def test_an_adapter_computes_the_logits_of_peft(case: str) -> None:
    expected = load_arrays(ADAPTERS / case / "logits.npz")
    base = json.loads((ADAPTERS / case / "adapter_config.json").read_text())["base_model_name_or_path"]
    found = np.asarray(halcyon.logits(model_with(GOLDENS / base, ADAPTERS / case), expected["tokens"]))
    assert np.abs(found - expected["logits"]).max() <= 1e-5 * np.abs(expected["logits"]).max()


def test_each_adapter_is_added_with_its_rank_and_its_alpha() -> None:
    """The variants of the test above, without a model."""
    config = read_adapter_config((ADAPTERS / "patterns" / "adapter_config.json").read_bytes(), "here")
    ranks = {
        name: config.rank_of(f"model.layers.{name}")
        for name in ("0.self_attn.q_proj", "0.mlp.up_proj", "1.mlp.up_proj", "1.mlp.down_proj")
    }
    assert list(ranks.values()) == [4, 2, 3, 2]
    assert config.scale_of("model.layers.0.self_attn.q_proj") == 5 / 2
    assert config.scale_of("model.layers.1.self_attn.q_proj") == 7 / 2
    assert config.scale_of("model.layers.1.mlp.down_proj") == 3 / 2**0.5, "a pattern matches whole parts of names"


def adapter(folder: Path, tensors: dict[str, np.ndarray] | None = None, **settings: Any) -> Path:
    """An adapter of the small Llama, with other tensors and settings."""
    folder.mkdir(exist_ok=True)
    source = ADAPTERS / "init-gaussian"
    config = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    save_file(
        load_file(source / "adapter_model.safetensors") if tensors is None else tensors,
        folder / "adapter_model.safetensors",
    )
    return folder


def refused(folder: Path, sentence: str) -> None:
    with pytest.raises(BadConfiguration, match=sentence) as raised:
        model_with(GOLDENS / "llama", folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("init_lora_weights", "pissa", r"changed weights of the base; .*path_initial_model_for_weight_conversion"),
        ("init_lora_weights", "pissa_niter_16", "changed weights of the base"),
        ("init_lora_weights", "olora", "changed weights of the base"),
        ("init_lora_weights", "OLoRA", "changed weights of the base"),
        ("init_lora_weights", "corda", "changed weights of the base"),
        ("init_lora_weights", "lora_ga", "changed weights of the base"),
        ("init_lora_weights", "loftq", r"changed weights of the base; merge it with peft"),
        ("init_lora_weights", "of_next_year", "changed weights of the base; merge it .*, or write it again with peft"),
        ("init_lora_weights", 1, "changed weights of the base; merge it .*, or write it again with peft"),
        ("alora_invocation_tokens", [5, 6], "does not compute what it changes; merge it with peft"),
        ("arrow_config", {"top_k": 2}, "does not compute what it changes; merge it with peft"),
        ("layer_replication", [[0, 1], [0, 2]], "does not compute what it changes; merge it with peft"),
        ("lora_bias", True, "does not compute what it changes; merge it with peft"),
        ("modules_to_save", ["lm_head"], "does not compute what it changes"),
        ("target_parameters", ["mlp.experts.down_proj"], "does not compute what it changes"),
        ("trainable_token_indices", {"embed_tokens": [1]}, "does not compute what it changes"),
        ("bias", "all", "only low-rank maps; merge it with peft"),
        ("megatron_config", {"a": 1}, "does not compute what it changes; merge it with peft"),
        ("use_qalora", True, "does not compute what it changes; merge it with peft"),
        ("use_bdlora", {"nblocks": 2}, "does not compute what it changes; merge it with peft"),
        ("kasa_config", {"beta": 1.0}, "does not compute what it changes; merge it with peft"),
        ("kasa_config", {}, "does not compute what it changes; merge it with peft"),
        ("monteclora_config", {"num_samples": 2}, "does not compute what it changes; merge it with peft"),
        ("velora_config", {"num_groups": 2}, "does not compute what it changes; merge it with peft"),
        ("field_of_next_year", 0.5, "does not compute what it changes; merge it with peft"),
        ("field_of_next_year", 0, "does not compute what it changes; merge it with peft"),
        ("task_type", "SEQ_CLS", "only adapters of language models"),
        ("lora_alpha", float("nan"), "a finite number"),
        ("lora_alpha", float("inf"), "a finite number"),
        ("lora_alpha", 10**400, "a finite number"),
        ("lora_alpha", "16", "a finite number"),
        ("lora_alpha", None, "a finite number"),
        ("lora_alpha", True, "a finite number"),
        ("r", 0, "at least 1"),
        ("r", 2.0, "at least 1"),
        ("r", 8, r"model.layers.0.mlp.down_proj has the rank 8, and .* has 2"),
        ("rank_pattern", {"q_proj": 4}, "q_proj has the rank 4, and .* has 2"),
        ("rank_pattern", {"q_proj": 0}, "at least 1"),
        ("rank_pattern", ["q_proj"], "must be an object"),
        ("alpha_pattern", {"q_proj": float("inf")}, "a finite number"),
        ("alpha_pattern", {"(q_proj": 4}, r"alpha_pattern is \"\(q_proj\": it is no regular expression"),
        ("rank_pattern", {"*q_proj": 4}, "it is no regular expression"),
        ("target_modules", "(q_proj", "it is no regular expression"),
        ("target_modules", ["q_proj"], "leave out model.layers.0.mlp.down_proj"),
        ("target_modules", [3], "a text or a list of texts"),
        ("exclude_modules", ["down_proj"], "leave out model.layers.0.mlp.down_proj"),
        ("layers_to_transform", [1], "leave out model.layers.0.mlp.down_proj"),
        ("layers_to_transform", "1", "a number or a list of numbers"),
        ("use_dora", "false", "true or false"),
        ("use_rslora", 1, "true or false"),
        ("use_dora", True, "is not complete"),
    ],
)  # fmt: skip
def test_what_halcyon_does_not_compute_is_refused_with_its_field(
    tmp_path: Path, field: str, value: Any, sentence: str
) -> None:
    folder = adapter(tmp_path / "adapter", **{field: value})
    refused(folder, sentence)
    if "leave out" not in sentence and "complete" not in sentence:
        refused(folder, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("target_modules", r"(\w|\w\w)*!"),
        ("exclude_modules", r"(.*.*)*!"),
        ("rank_pattern", {r"(\w|\w\w)*!": 2}),
        ("alpha_pattern", {r"(\w|\w\w)*!": 2}),
        ("layers_pattern", r"(\w|\w\w|\.)*!"),
    ],
)
def test_a_pattern_that_needs_too_many_steps_is_refused(
    monkeypatch: pytest.MonkeyPatch, field: str, value: Any
) -> None:
    monkeypatch.setattr(apart, "SECONDS", 0.1)
    written = json.dumps(
        {"peft_type": "LORA", "target_modules": "all-linear", "layers_to_transform": [0], field: value}
    ).encode()
    config, module = read_adapter_config(written, "adapter_config.json"), "a" * 60
    with pytest.raises(OverLimit, match=rf"^adapter_config\.json: {field}: it needs more than 2 s of processor time"):
        _ = config.is_target(module), config.rank_of(module), config.scale_of(module)


@pytest.mark.parametrize("pattern", ["(", "a{99999999999}", "(?P<index>a)", "(?i)a(?i)", "(" * 5000])
def test_a_pattern_that_is_not_valid_is_refused(tmp_path: Path, pattern: str) -> None:
    refused(
        adapter(tmp_path, layers_pattern=[pattern]),
        r"layers_pattern is .*: it is no regular expression \(.*\); correct it",
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"init_lora_weights": False},
        {"init_lora_weights": None},
        {"field_of_next_year": None, "other": False, "third": []},
        {"eva_config": {"rho": 2.0}, "loftq_config": {"loftq_bits": 4}, "lora_dropout": 0.3, "peft_version": "9.9"},
        {"target_modules": r"model\.layers\.\d\.(self_attn|mlp)\.(q|down)_proj", "layers_to_transform": None},
        {"layers_to_transform": [0, 1], "layers_pattern": ["layers"], "exclude_modules": ["k_proj"]},
        {
            "megatron_core": "other",
            "qalora_group_size": 8,
            "fan_in_fan_out": True,
            "ensure_weight_tying": True,
            "enable_lora": None,
        },
    ],
)
def test_fields_that_change_nothing_are_read(tmp_path: Path, settings: dict[str, Any]) -> None:
    PeftFolder(store_of(adapter(tmp_path / "adapter", **settings)))


def test_numbers_that_are_not_finite_are_refused_with_their_tensor(tmp_path: Path) -> None:
    tensors = load_file(ADAPTERS / "init-gaussian" / "adapter_model.safetensors")
    for number in (np.nan, np.inf, -np.inf):
        changed = tensors[DOWN].copy()
        changed[1, 3] = number
        refused(adapter(tmp_path / "adapter", tensors | {DOWN: changed}), f"{DOWN} has NaN or infinite numbers")
        refused(
            adapter(tmp_path / "adapter", tensors | {DOWN: changed.astype(np.float16)}),
            f"{DOWN} has NaN or infinite numbers",
        )
    large = {name: np.full_like(value, 3e30) for name, value in tensors.items()}
    refused(
        adapter(tmp_path / "adapter", large),
        r"the weight of model\.layers\..* has NaN or infinite numbers with the adapter added",
    )


def test_an_adapter_without_lengths_and_one_with_lengths_that_are_not_used_are_refused(tmp_path: Path) -> None:
    source = ADAPTERS / "dora-inputs-first"
    tensors = load_file(source / "adapter_model.safetensors")
    lengths = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"
    settings = json.loads((source / "adapter_config.json").read_text())
    refused(adapter(tmp_path / "adapter", tensors, **{**settings, "use_dora": False}), "use_dora is not true")
    refused(adapter(tmp_path / "adapter", tensors | {lengths: tensors[lengths][:3]}, **settings), r"with \[3\] lengths")
    refused(
        adapter(tmp_path / "adapter", {name: one for name, one in tensors.items() if name != lengths}, **settings),
        "not complete",
    )


def test_tensors_that_are_no_low_rank_map_of_a_module_are_refused(tmp_path: Path) -> None:
    tensors = load_file(ADAPTERS / "init-gaussian" / "adapter_model.safetensors")

    def changed(sentence: str, tensors: dict[str, np.ndarray], **settings: Any) -> None:
        refused(adapter(tmp_path / "adapter", tensors, **settings), sentence)

    embedding = {"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((2, 70), "f4")}
    changed("is no part of a low-rank adapter of a linear map, but of an embedding", tensors | embedding)
    changed("is no part of a low-rank adapter", tensors | {DOWN.replace("weight", "default.weight"): tensors[DOWN]})
    changed("is no part of a low-rank adapter", tensors | {"base_model.model.lm_head.weight": np.zeros((70, 16), "f4")})
    changed("the type I8", tensors | {DOWN: tensors[DOWN].astype(np.int8)})
    changed("has no tensors", {})
    changed("which is no low-rank map", tensors | {DOWN: tensors[DOWN][0]})
    renamed = {name.replace("layers.1", "layers.7"): value for name, value in tensors.items()}
    changed("has the module model.layers.7.mlp.down_proj, and the model has no weight of its own there", renamed)
    wider = np.zeros((2, 17), np.float32)
    changed(r"is \[16, 2\] x \[2, 17\], and the model's weight is \[16, 16\]", tensors | {DOWN: wider})


def test_an_adapter_of_a_tied_head_is_refused(tmp_path: Path) -> None:
    """The head of the sum would differ from the embedding."""
    folder = adapter(
        tmp_path / "adapter",
        load_file(ADAPTERS / "head" / "adapter_model.safetensors"),
        target_modules=["lm_head", "o_proj"],
    )
    with pytest.raises(BadConfiguration, match="the model has no weight of its own there"):
        model_with(GOLDENS / "llama-tied", folder)


def test_a_folder_without_an_adapter_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    adapter(tmp_path / "run" / "first")
    adapter(tmp_path / "run" / "second")
    refused(
        tmp_path / "run", r"no adapter_config\.json; it has several adapters, first, second; give the folder of one"
    )
    folder = adapter(tmp_path / "pickled")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    refused(folder, r"no adapter_model\.safetensors but adapter_model\.bin; save it with peft as safetensors")
    (folder / "adapter_config.json").write_text("{")
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    refused(folder, "is no JSON")
