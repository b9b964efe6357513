"""`halcyon.file_tensors`: a gradient has the names, shapes and places of the exported tensors."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import halcyon
from halcyon.host.errors import BadConfiguration
from halcyon.models import Inputs
from halcyon.models.model import with_tokens
from halcyon.weights.folder import read_config
from halcyon_api.spec.families.custom import CustomSpec
from tests.trainer.weights.folders import GOLDENS, store_of

CASES = ["qwen3", *(pytest.param(name, marks=pytest.mark.variant) for name in ("gpt2", "llama", "llama-tied"))]
TOKENS = np.random.default_rng(0).integers(0, 20, (2, 8))


@functools.partial(jax.jit, static_argnums=1)
def loss(model: Any, scale: float) -> jax.Array:
    scores = model.logits(model(Inputs(hax.named(jnp.asarray(TOKENS, jnp.int32), ("batch", "position")))).features)
    return (
        scale
        * hax.mean(hax.sum(hax.nn.log_softmax(scores, model.vocab)[model.vocab.name, 0:5], model.vocab.name)).scalar()
    )


def stored_tensors(folder: Path) -> dict[str, np.ndarray]:
    found = {name: array for path in folder.glob("*.safetensors") for name, array in load_file(path).items()}
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def load(folder: Path) -> Any:
    return halcyon.load(f"hf:{folder}", dtype=jnp.float32)[0]


@pytest.mark.parametrize("case", CASES)
def test_parameters_have_the_names_and_values_of_the_files(case: str) -> None:
    folder = GOLDENS / case
    spec, stored = read_config(store_of(folder)).spec, stored_tensors(folder)
    found = halcyon.file_tensors(spec, load(folder))
    assert set(found) <= set(stored)
    for name, array in found.items():
        np.testing.assert_array_equal(array, stored[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_gradient_says_how_the_loss_changes_with_a_tensor_of_the_file(case: str, tmp_path: Path) -> None:
    """Each tensor of the file is moved along its gradient; the loss changes as the gradient says."""
    folder = GOLDENS / case
    spec, stored = read_config(store_of(folder)).spec, stored_tensors(folder)
    gradient = halcyon.file_tensors(spec, jax.grad(loss)(load(folder), 1.0))
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in [name for name, of in gradient.items() if np.abs(of).max() > 1e-5][:: max(1, len(gradient) // 6)]:
        step = 1e-2 * gradient[name] / np.linalg.norm(gradient[name])
        values = []
        for sign in (-1, 1):
            save_file(stored | {name: stored[name] + sign * step}, tmp_path / "model.safetensors")
            values.append(float(loss(load(tmp_path), 1.0)))
        expected = 2 * float(np.sum(step * gradient[name]))
        assert values[1] - values[0] == pytest.approx(expected, rel=0.05, abs=2e-6), name


def test_padding_is_left_out_and_other_models_are_rejected() -> None:
    folder = GOLDENS / "qwen3"
    spec, model = read_config(store_of(folder)).spec, load(folder)
    whole, part = halcyon.file_tensors(spec, model), halcyon.file_tensors(spec, with_tokens(model, 7))
    np.testing.assert_array_equal(part["model.embed_tokens.weight"], whole["model.embed_tokens.weight"][:7])
    with pytest.raises(BadConfiguration, match="no form of Hugging Face"):
        halcyon.file_tensors(CustomSpec.model_validate({"class": "mine:Model"}), model)
