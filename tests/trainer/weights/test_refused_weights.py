"""Weights that mean something else than they seem to are rejected on import and on export, with the tensor or the file
in the message.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import halcyon
from halcyon.host.errors import BadConfiguration
from halcyon.weights.safetensors import is_finite
from tests.trainer.weights.folders import (
    GOLDENS,
    exported,
    imported,
    llama_tensors,
    same_bits,
    tensors_of,
    write_folder,
)

NAME = "model.layers.1.mlp.down_proj.weight"


def refused(folder: Path, sentence: str, **options: Any) -> None:
    """An import of a folder is refused, and leaves no checkpoint."""
    with pytest.raises(BadConfiguration, match=sentence) as raised:
        imported(folder, folder.with_name("root"), **options)
    assert "\n" not in str(raised.value)
    assert not folder.with_name("root").joinpath("HEAD").exists()


@pytest.mark.parametrize("kind", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64])
def test_numbers_that_are_not_finite_are_found(kind: Any) -> None:
    values = np.random.default_rng(0).standard_normal((5, 7)).astype(kind)
    values[0, :2] = jnp.finfo(kind).max, jnp.finfo(kind).min
    assert is_finite(values)
    assert is_finite(values[:0])
    assert is_finite(values.T[1:, ::2])
    for number in (np.nan, -np.nan, np.inf, -np.inf):
        changed = values.copy()
        changed[4, 6] = number
        assert not is_finite(changed)
        assert is_finite(changed[:4])


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_an_import_of_numbers_that_are_not_finite_names_the_tensor(tmp_path: Path, kind: str, number: float) -> None:
    tensors = llama_tensors(kind)
    tensors[NAME][7, 11] = number
    folder = write_folder(tmp_path / "model", tensors)
    refused(folder, rf"model\.safetensors: the tensor {NAME} has NaN or infinite numbers")
    with pytest.raises(BadConfiguration, match=f"the tensor {NAME} has NaN or infinite numbers"):
        halcyon.load(f"hf:{folder}")


def test_numbers_beyond_the_range_of_the_type_are_refused(tmp_path: Path) -> None:
    tensors = llama_tensors()
    tensors[NAME][7, 11] = 70_000.0
    folder = write_folder(tmp_path / "model", tensors)
    refused(
        folder,
        r"blocks\.stacked\.mlp\.down\.weight has numbers beyond the range of float16; import it as bfloat16 or float32",
        dtype="float16",
    )
    imported(folder, tmp_path / "root")
    with pytest.raises(
        BadConfiguration,
        match=f"the tensor {NAME} has numbers beyond the range of float16; set dtype to bfloat16 or float32",
    ):
        exported(tmp_path / "root", tmp_path / "out", dtype="float16")
    assert same_bits(exported(tmp_path / "root", tmp_path / "whole"), tensors)


def test_a_tied_head_that_is_not_the_embedding_is_refused(tmp_path: Path) -> None:
    """transformers 5 reads the head of such files, and version 4 does not."""
    tensors = llama_tensors()
    head = "lm_head.weight"
    folder = write_folder(tmp_path / "model", tensors, tie_word_embeddings=True)
    refused(
        folder,
        "tie_word_embeddings is true, but lm_head.weight is not model.embed_tokens.weight; set tie_word_embeddings to "
        "false",
    )
    embedding = tensors["model.embed_tokens.weight"]
    refused(
        write_folder(folder, {**tensors, head: embedding[:5]}, tie_word_embeddings=True),
        "lm_head.weight is not model.embed_tokens.weight",
    )
    write_folder(folder, {**tensors, head: embedding}, tie_word_embeddings=True)
    imported(folder, tmp_path / "root")
    assert same_bits(
        exported(tmp_path / "root", tmp_path / "out"), {name: one for name, one in tensors.items() if name != head}
    )


def test_a_tensor_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    tensors = llama_tensors()
    folder = tmp_path / "model"
    write_folder(folder, {})
    (folder / "model.safetensors").unlink()
    first = {name: one for name, one in tensors.items() if "layers.1" not in name}
    second = {name: one for name, one in tensors.items() if name not in first}
    files = {
        "model-00001-of-00002.safetensors": first,
        "model-00002-of-00002.safetensors": {**second, "model.norm.weight": np.zeros(8, "f4")},
    }
    for file, part in files.items():
        save_file(part, folder / file, {"format": "pt"})
    index = {
        name: file
        for file, part in files.items()
        for name in part
        if not (name == "model.norm.weight" and part is not first)
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    refused(
        folder,
        r"the tensor model.norm.weight is in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors; "
        r"delete",
    )
    save_file(second, folder / "model-00002-of-00002.safetensors", {"format": "pt"})
    imported(folder, tmp_path / "whole")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    refused(folder, r"has model.safetensors and model.safetensors.index.json, which does not name it; delete")


def test_two_spellings_of_a_tensor_are_refused(tmp_path: Path) -> None:
    tensors = tensors_of(GOLDENS / "gpt2")
    other = {"ln_f.bias" if "transformer.ln_f.bias" in tensors else "transformer.ln_f.bias": np.zeros(16, np.float32)}
    folder = write_folder(
        tmp_path / "model", {**tensors, **other}, json.loads((GOLDENS / "gpt2" / "config.json").read_text())
    )
    refused(
        folder, r"(transformer\.)?ln_f.bias and (transformer\.)?ln_f.bias are the same tensor of the model; delete one"
    )


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ({"is_causal": False}, "is_causal is false, but Halcyon computes this model only with true"),
        ({"is_causal": None}, "is_causal is null"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is true"),
        ({"per_layer_config": {"1": {"num_key_value_heads": 4}}}, "per_layer_config is set"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights is set"),
        (
            {"quantization_config": {"quant_method": "fp8"}},
            "quantization_config: the format is fp8, and .* has no weight in it that Halcyon reads",
        ),
    ],
)
def test_entries_that_change_every_model_are_refused(tmp_path: Path, entries: dict[str, Any], sentence: str) -> None:
    refused(write_folder(tmp_path / "model", llama_tensors(), **entries), sentence)
