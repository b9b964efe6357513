"""Frozen weights as codes of 4 or 8 bits beside an adapter (QLoRA)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import haliax as hax
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from halcyon.checkpoint.layout import flatten
from halcyon.models.adapters import base_note
from halcyon.models.parameters import Role
from halcyon.models.parts.coded import Coded, decoded, encoded, without_codes
from halcyon.models.parts.linear import Linear
from halcyon_api.memory import least_need
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.adapter import Base
from halcyon_api.validation import find_problems
from tests.trainer.run.test_beginning import begun, spec_of
from tests.trainer.weights.folders import llama_tensors, write_folder

WIDE = {"hiddenSize": 256, "intermediateSize": 128}
NF4 = [-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0,
       0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0]  # fmt: skip
RAMP = "00000111111112222233344445556667788899aaabbbccccddddeeeeeeefffff"
"""The codes that bitsandbytes 0.50 makes of 64 steps from -3 to 3."""


def test_nf4_is_that_of_bitsandbytes() -> None:
    ramp = np.linspace(-3, 3, 64, dtype=np.float32)
    codes, scales = encoded("nf4", ramp, 0)
    assert codes.tobytes().hex() == RAMP
    assert scales.tolist() == [3.0]
    values = np.array(NF4, np.float32)
    weight = np.random.default_rng(0).standard_normal((5, 192)).astype(ml_dtypes.bfloat16)
    weight[2, 64:128] = 0
    blocks = weight.astype(np.float32).reshape(-1, 64)
    greatest = np.abs(blocks).max(1, keepdims=True)
    scaled = np.clip(blocks * (1 / np.maximum(greatest, np.float32(1e-38))), -1, 1)
    wanted = values[np.abs(scaled[..., None] - values).argmin(-1)] * greatest
    assert np.array_equal(decoded("nf4", *encoded("nf4", weight, 1), 1).reshape(-1, 64), wanted)
    turned = decoded("nf4", *encoded("nf4", weight.T, 0), 0)
    assert np.array_equal(turned.T.reshape(-1, 64), wanted)


def test_mxfp4_is_that_of_the_standard() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    weight[0, :8] = [0.25, -0.75, 1.25, 1.75, 2.5, 3.5, -5, 6]
    blocks = weight.reshape(4, 2, 32)
    scales = 2.0 ** (np.floor(np.log2(np.abs(blocks).max(-1, keepdims=True))) - 2)
    wanted = np.clip(blocks / scales, -6, 6).astype(ml_dtypes.float4_e2m1fn).astype(np.float32) * scales
    assert np.array_equal(decoded("mxfp4", *encoded("mxfp4", weight, 1), 1), wanted.reshape(4, 64))


@pytest.mark.parametrize("base", get_args(Base))
def test_a_product_and_the_gradient_of_its_inputs_are_those_of_the_decoded_weight(base: Base) -> None:
    features, out, batch = hax.Axis("features", 128), hax.Axis("out", 32), hax.Axis("batch", 3)
    plain = Linear.init((features,), (out,), std=1.0, dtype=jnp.dtype(jnp.float32), key=jax.random.key(0))
    weight = jax.tree.map(np.asarray, plain.weight)
    held = Coded.of(base, weight, (features,), Role.MATRIX)
    few: Any = Linear((features,), Role.MATRIX, held, None)
    values = decoded(base, np.asarray(held.codes.array), np.asarray(held.scales.array), 0)
    assert np.abs(values - weight.array).max() <= {"nf4": 0.6, "mxfp4": 1.0, "int8": 0.02, "float8": 0.2}[base]
    whole = without_codes(few)
    assert np.array_equal(whole.weight.array, values)
    assert held.axes == weight.axes
    x = hax.random.normal(jax.random.key(1), (batch, features))
    for one, other in zip(*(jax.vjp(linear, x)[1](linear(x)) for linear in (few, whole)), strict=True):
        assert np.array_equal(one.array, other.array)
    kept = jax.tree.leaves(jax.vjp(few, x)[1])
    assert sum(leaf.size for leaf in kept if leaf.dtype == jnp.float32) < weight.array.size  # scales and inputs alone


def test_a_run_holds_codes_of_the_files_and_says_which_weights_have_none(tmp_path: Path) -> None:
    tensors = llama_tensors(width=256, mlp=128)
    tensors |= {"model.layers.0.mlp.down_proj.weight": tensors["model.layers.0.mlp.down_proj.weight"] * 3}
    folder = write_folder(tmp_path / "model", tensors, hidden_size=256, intermediate_size=128)
    spec = spec_of(tmp_path, {"huggingFace": {"path": str(folder)}}, **WIDE)

    def with_base(base: Base | None, **lora: Any) -> Any:
        document = spec.document() | {"adapter": {"lora": {"base": base, **lora}}}
        return type(spec).model_validate({**document, "trainer": document["trainer"]})

    beginning, program = begun(with_base("nf4", dora=True, trainAlso=["*.up.weight"]))
    state = {leaf.path: np.asarray(leaf.value) for leaf in flatten(beginning.state(program).model)}
    for layer in range(2):
        for ours, theirs in (("mlp.down", "mlp.down_proj"), ("attention.output", "self_attn.o_proj")):
            codes, scales = encoded("nf4", tensors[f"model.layers.{layer}.{theirs}.weight"], 1)
            at = f"blocks.stacked.{ours}.weight"
            assert np.array_equal(state[f"{at}.scales"][layer].reshape(-1, 256), scales.T)
            assert np.array_equal(state[f"{at}.codes"][layer].reshape(-1, 256), codes.T)
    assert state["blocks.stacked.mlp.up.weight"].dtype == np.float32
    columns = decoded("nf4", state["blocks.stacked.mlp.down.weight.codes"], scales=state[
        "blocks.stacked.mlp.down.weight.scales"], at=1)  # fmt: skip
    lengths = np.linalg.norm(columns, axis=1)
    assert np.allclose(state["blocks.stacked.mlp.down.adapter.magnitude"], lengths, rtol=1e-6)
    assert base_note(program.template.model, with_base("nf4").lora) == ""
    narrow = type(spec).model_validate(with_base("nf4").document() | {"model": {"family": "llama", **WIDE,
        "numHiddenLayers": 2, "numAttentionHeads": 8}})  # fmt: skip
    note = base_note(jax.eval_shape(lambda: begun_shapes(narrow)), narrow.lora)
    assert "do not divide their last axis of inputs: blocks.stacked.attention.output.weight." in note
    needs = [least_need(one, run_mesh(one)).state_bytes for one in (with_base(None), with_base("nf4"))]
    assert needs[1] < 0.35 * needs[0]
    averaged = type(spec).model_validate(with_base("int8").document() | {"average": {"ema": {"decay": 0.9}}})
    assert [problem.field for problem in find_problems(averaged)] == ["spec.average"]


def begun_shapes(spec: Any) -> Any:
    from halcyon.models.adapters import adapted_shapes

    return adapted_shapes(spec.model, spec.lora)
