"""Published weights in few bits are read as the values that their programs decode, or refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.checkpoint.layout import flatten
from halcyon.host.errors import BadConfiguration
from halcyon.models.parts.coded import decoded
from halcyon.models.published.config import ConfigReader
from halcyon.weights import kept, narrow
from halcyon.weights.folder import model_shapes, read_config
from halcyon.weights.layout import WeightLayout, leaf_shapes
from halcyon.weights.narrow import NarrowFiles
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.models.parity import Golden
from tests.trainer.run.test_beginning import begun, spec_of
from tests.trainer.weights.folders import exported, imported, llama_tensors, same_bits, store_of, write_folder
from tests.trainer.weights.narrow_cases import FORMS, mxfp4, mxfp4_wide, packed, wide
from tests.trainer.weights.test_kept import folder_of

GOLDENS = json.loads((Path(__file__).parent / "goldens/narrow.json").read_text())
SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256}
SPEC = {"hiddenSize": 128, "intermediateSize": 256}
NAME = "model.layers.1.mlp.down_proj"
TYPES = {"int8": "float16", "fp8": "bfloat16", "gptq 4": "float16", "gptq 8": "float16", "awq": "float16"}
"""Types of decoded weights, and in config.json; of other forms: bfloat16."""


def stored(form: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors with the types that they have in files."""
    codes = jnp.float8_e4m3fn if form == "fp8" else np.uint8
    return {name: array.view(codes) if array.dtype == np.uint8 else array for name, array in tensors.items()}


def llama(form: str, folder: Path, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Write a Llama whose linear maps are in a form, with changes of tensors below `NAME`; the wide tensors."""
    tensors, written = llama_tensors(width=128, mlp=256), {}
    for number, (name, array) in enumerate(tensors.items()):
        if array.ndim == 1 or name.startswith(("model.embed", "lm_head")):
            written[name] = array
            continue
        few = packed(form, name.removesuffix(".weight"), *array.shape, seed=number)
        written |= stored(form, few)
        tensors[name] = wide(form, name.removesuffix(".weight"), few).astype(jnp.dtype(TYPES.get(form, "bfloat16")))
    for end, array in changes.items():
        written |= {f"{NAME}.{end}": array} if array is not None else {}
        if array is None:
            del written[f"{NAME}.{end}"]
    config = {"torch_dtype": TYPES.get(form, "bfloat16"), "quantization_config": FORMS[form], **SIZES}
    write_folder(folder, written, **config)
    return tensors


@pytest.mark.parametrize("form", GOLDENS)
def test_the_bits_are_those_of_bitsandbytes_and_transformers(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """See tests/parity/narrow.py."""
    monkeypatch.setattr(narrow, "_DECODED_AT_A_TIME", 384 * 7)
    tensors = mxfp4("a", 3, 10, 64) if form == "mxfp4" else stored(form, packed(form, "a", 256, 384))
    settings = FORMS.get(form, {"quant_method": form})
    kind, digest = GOLDENS[form]
    write_folder(tmp_path, tensors, {})
    config = ConfigReader({"quantization_config": settings, "dtype": kind})
    files = NarrowFiles(store_of(tmp_path), config)
    name = "a" if form == "mxfp4" else "a.weight"
    assert {name} == files.tensors.keys()
    values = files.rows(name, 0, files.tensors[name].shape[0])
    assert values.dtype == kind
    assert hashlib.sha256(values.tobytes()).hexdigest() == digest
    assert np.array_equal(files.rows(name, 1, 3), values[1:3])
    if form != "mxfp4":
        bits = wide(form, "a", packed(form, "a", 256, 384)).astype(values.dtype)
        assert np.array_equal(bits, values)


@pytest.mark.parametrize("form", FORMS)
def test_an_import_has_the_wide_values_and_an_export_no_entry_of_the_form(form: str, tmp_path: Path) -> None:
    tensors = llama(form, tmp_path / "model")
    imported(tmp_path / "model", tmp_path / "root")
    found = exported(tmp_path / "root", tmp_path / "out")
    assert same_bits(found, tensors)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_run_holds_the_codes_and_the_scales_of_files_in_nf4(tmp_path: Path) -> None:
    """Directly from the files, the scales are not rounded to their type."""
    llama("nf4 nested", tmp_path / "model")
    spec = spec_of(tmp_path, {"huggingFace": {"path": str(tmp_path / "model")}}, **SPEC)
    document = spec.document() | {"adapter": {"lora": {"base": "nf4"}}}
    beginning, program = begun(TrainingRunSpec.model_validate(document))
    state = {leaf.path: np.asarray(leaf.value) for leaf in flatten(beginning.state(program).model)}
    at, names = "blocks.stacked.mlp.down.weight", list(llama_tensors())
    few = packed("nf4 nested", NAME, 128, 256, seed=names.index(f"{NAME}.weight"))
    assert np.array_equal(state[f"{at}.codes"][1].T, few[f"{NAME}.weight"].reshape(128, 128))
    values = decoded("nf4", state[f"{at}.codes"][1], state[f"{at}.scales"][1], 0)
    assert np.array_equal(values.T, wide("nf4 nested", NAME, few))


def test_gpt_oss_is_read_as_published_and_held_in_its_bits(tmp_path: Path) -> None:
    config = json.loads(Golden.load("gpt-oss").arrays["config"].tobytes())
    config |= {
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 70,
        "quantization_config": {"quant_method": "mxfp4"},
    }
    write_folder(tmp_path / "model", {}, config)
    model = read_config(store_of(tmp_path / "model"))
    layout = WeightLayout(model.form.tensors(model.spec), leaf_shapes(model_shapes(model.spec, model.tokens, 32)), {})
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(one.shape).astype(jnp.bfloat16) for name, one in layout.tensors.items()}
    written = dict(tensors)
    for name in [name for name in tensors if name.endswith("_proj") and "experts" in name]:
        experts, inputs, outputs = written.pop(name).shape
        few = mxfp4(name, experts, outputs, inputs, len(written))
        written |= few
        tensors[name] = mxfp4_wide(name, few).astype(jnp.bfloat16)
    write_folder(tmp_path / "model", written, config)
    imported(tmp_path / "model", tmp_path / "root")
    assert same_bits(exported(tmp_path / "root", tmp_path / "out"), tensors)
    origin = {"huggingFace": {"path": str(tmp_path / "model")}}
    document = spec_of(tmp_path, origin).document() | {"model": model.spec.document()}
    document |= {"adapter": {"lora": {"base": "mxfp4"}}}
    beginning, program = begun(TrainingRunSpec.model_validate(document))
    state = {leaf.path: np.asarray(leaf.value) for leaf in flatten(beginning.state(program).model)}
    at = "blocks.stacked.mlp.experts"
    paths = sorted({path.rpartition(".")[0] for path in state if path.startswith(at) and path.endswith(".codes")})
    assert paths == [f"{at}.{name}" for name in ("down", "gate", "up")]
    for path in paths:
        layers = decoded("mxfp4", state[f"{path}.codes"], state[f"{path}.scales"], 2)
        for layer, held in enumerate(layers):
            up = tensors[f"model.layers.{layer}.mlp.experts.{'down' if 'down' in path else 'gate_up'}_proj"]
            one = up if "down" in path else up[..., int("up" in path) :: 2]
            assert np.array_equal(held, one.astype(np.float32))


@pytest.mark.parametrize(
    ("model", "name"), [("deepseek-v3", "model.layers.3.mlp.down_proj"), ("gemma3", "model.vision_tower.y")]
)
def test_a_part_that_is_not_trained_is_kept_wide(
    model: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_PIECE_BYTES", 1000)
    folder, weights, parts = folder_of(model, tmp_path / "model")
    few = packed("fp8", name, 6, 200)
    config = json.loads((folder / "config.json").read_text()) | {"quantization_config": FORMS["fp8"]}
    write_folder(folder, weights | parts | stored("fp8", few), config)
    imported(folder, tmp_path / "root")
    found = exported(tmp_path / "root", tmp_path / "out")
    assert same_bits(found, weights | parts | {f"{name}.weight": wide("fp8", name, few).astype(jnp.bfloat16)})
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


ONE = np.zeros(1, np.uint8)
INDEX = np.full(256, 4, np.int32)


@pytest.mark.parametrize(
    ("form", "changes", "sentence"),
    [
        (
            "gptq 4",
            {"qzeros": None},
            r"down_proj.qzeros has not the type I32 and the shape \[4, 16\] .* is not in the form gptq",
        ),
        (
            "gptq 4",
            {"scales": np.ones((3, 64), np.float16)},
            r"down_proj.scales has not the type F32 F16 BF16 and the shape \[4, 128\]",
        ),
        ("gptq 4", {"g_idx": INDEX}, "down_proj.g_idx names other groups"),
        ("gptq 4", {"g_idx": -INDEX}, "down_proj.g_idx names other groups"),
        ("gptq 4", {"qzeros": np.full((4, 16), -1, np.int32)}, "down_proj.qzeros has zero points of 16"),
        ("gptq 4", {"weight": np.zeros((128, 256), np.float32)}, "down_proj.weight is there twice"),
        ("gptq 4", {"qweight": np.zeros((16, 128), np.int32)}, "down_proj.scales has not the type"),
        ("awq", {"bias2": np.zeros(3, np.float32)}, "down_proj.bias2 is no part of this model"),
        ("int8", {"weight_format": np.array(2, np.uint8)}, "down_proj.weight_format is not 0"),
        ("int8", {"SCB": np.full(128, np.inf, np.float32)}, "down_proj.weight has NaN or infinite numbers"),
        ("fp8", {"weight_scale_inv": None}, "down_proj.weight in model.safetensors has the type F8_E4M3"),
        (
            "fp8",
            {"weight_scale_inv": np.ones((2, 3), np.float32)},
            r"weight_scale_inv has not the type F32 F16 BF16 and the shape \[1, 2\]",
        ),
        ("nf4", {"weight.quant_state.bitsandbytes__nf4": ONE}, "is no JSON"),
        ("nf4", {"weight.quant_state.bitsandbytes__nf4": None}, "down_proj.weight.absmax is no part"),
        ("nf4", {"weight.nested_absmax": np.ones(2, np.float32)}, "down_proj.weight.nested_absmax is no part"),
    ],
)
def test_other_tensors_are_refused_by_name(form: str, changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    llama(form, tmp_path / "model", **changes)
    with pytest.raises(BadConfiguration, match=sentence):
        imported(tmp_path / "model", tmp_path / "root")
    assert not (tmp_path / "root" / "HEAD").exists()


@pytest.mark.parametrize(
    ("form", "settings", "sentence"),
    [
        ("gptq 4", {"bits": 3}, "bits is 3, but"),
        ("gptq 4", {"checkpoint_format": "marlin"}, 'checkpoint_format is "marlin", but'),
        ("gptq 4", {"group_size": 96}, "scales has not the type"),
        ("awq", {"version": "gemv"}, 'version is "gemv", but'),
        ("awq", {"bits": 8}, "bits is 8, but"),
        ("fp8", {"weight_block_size": [64, 64]}, r"weight_block_size is \[64, 64\], but"),
        ("nf4", {"quant_method": "gguf"}, "the format is gguf, and .* has no weight in it that Halcyon reads"),
    ],
)
def test_other_settings_are_refused(form: str, settings: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    llama(form, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "quantization_config": config["quantization_config"] | settings}))
    with pytest.raises(BadConfiguration, match=sentence):
        imported(tmp_path / "model", tmp_path / "root")


@pytest.mark.parametrize(
    "state",
    [{"shape": [2**40, 2**40]}, {"shape": [128]}, {"shape": None}, {"shape": [128, -256]}, {"blocksize": 0}, {"blocksize": 512},
     {"nested_blocksize": 64}, {"nested_offset": 1.0}, {"dtype": 3}],
)  # fmt: skip
def test_a_state_that_is_not_that_of_the_weight_is_refused(state: dict[str, Any], tmp_path: Path) -> None:
    whole = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [128, 256], **state}
    array = np.frombuffer(json.dumps(whole).encode(), np.uint8)
    llama("nf4", tmp_path / "model", **{"weight.quant_state.bitsandbytes__nf4": array})
    with pytest.raises(BadConfiguration, match=r"down_proj\.weight"):
        imported(tmp_path / "model", tmp_path / "root")
