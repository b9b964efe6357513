"""Adapters: they compute what the merged weights compute, train alone, and are refused where they would have no
effect.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.models import CausalLM, Inputs
from halcyon.models.adapters import (
    adaptable,
    adapter_path,
    check_used,
    has_adapter,
    merged,
    trained_with_adapter,
    with_adapter,
    with_dropout,
)
from halcyon.models.adapters import without_adapter as base_of
from halcyon.models.parameters import Role, joined, split
from halcyon.models.parts.linear import Linear
from halcyon.models.parts.low_rank import LowRank
from halcyon_api.spec.adapter import LoraSpec
from tests.parity.dora import dora_with_dropout
from tests.trainer.models.cases import FAMILIES, LLAMA, make, named, roles

TOKENS = named(np.random.default_rng(0).integers(0, 24, (2, 8), np.int32))
_MARKS = {"llama": (), "deepseek-v3": (pytest.mark.slow,)}
"""Latent attention and experts take some seconds; the other families are further cases."""
EACH = pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=_MARKS.get(name, (pytest.mark.variant,))) for name in FAMILIES],
    ids=list(FAMILIES),
)


def adapted(model: CausalLM, **lora: Any) -> CausalLM:
    """A model whose adapters have random numbers, also in the factor that begins as 0."""
    noise = np.random.default_rng(3)

    def moved(flag: bool, leaf: Any) -> Any:
        return (
            leaf + hax.named(0.05 * noise.standard_normal(leaf.array.shape).astype(np.float32), leaf.axes)
            if flag
            else leaf
        )

    model = with_adapter(model, LoraSpec(rank=3, **lora), jax.random.key(0))
    return jax.tree.map(moved, trained_with_adapter(model), model)


def logits(model: CausalLM) -> np.ndarray:
    return np.asarray(model.logits(model(Inputs(TOKENS)).features).array)


@EACH
def test_merged_weights_compute_what_the_adapters_compute(name: str) -> None:
    model = adapted(make.__wrapped__(FAMILIES[name], length=8))  # documents with lists cannot be keys of a cache
    found, expected = logits(model), logits(merged(model))
    assert not has_adapter(merged(model))
    # Rounding in float32: norms and delta nets amplify it most. A wrong merge differs by a thousandth and more, as
    # below.
    assert np.abs(found - expected).max() <= (5e-5 if name == "qwen3-next" else 1e-5) * np.abs(expected).max()
    assert np.abs(found - logits(base_of(model))).max() > 1e-3 * np.abs(expected).max()
    check_used(model)


def test_dora_scales_the_columns_and_a_new_adapter_changes_nothing() -> None:
    """The magnitude is the length of each column of the merged weight (Liu et al. 2024, equation 5)."""
    plain = make(LLAMA, length=8)
    new = with_adapter(plain, LoraSpec(dora=True), jax.random.key(0))
    assert np.abs(logits(new) - logits(plain)).max() <= 1e-6 * np.abs(logits(plain)).max()
    model = adapted(plain, dora=True, rs_lora=True, alpha=4.0)
    assert np.abs(logits(model) - logits(merged(model))).max() <= 3e-6 * np.abs(logits(model)).max()
    (adapter, weight) = next(
        (node.adapter, merged(model))
        for node in jax.tree.leaves(model, is_leaf=_is_linear)
        if _is_linear(node) and node.adapter
    )
    assert adapter.scale == 4.0 / 3**0.5
    query: Any = weight.blocks.stacked.attention.query.weight.array  # type: ignore[attr-defined]
    np.testing.assert_allclose(np.sqrt((np.asarray(query) ** 2).sum(1)), np.asarray(adapter.magnitude.array), rtol=1e-5)


def _is_linear(node: Any) -> bool:
    return isinstance(node, Linear)


def test_only_adapters_are_trained_and_both_parts_join_to_the_model() -> None:
    model = with_adapter(
        make(LLAMA, length=8), LoraSpec(targets=["*.attention.*", "*.mlp.up.weight"]), jax.random.key(0)
    )
    assert {adapter_path(path) for path, _ in adaptable(model)} >= {
        "blocks.stacked.attention.query.adapter",
        "blocks.stacked.mlp.up.adapter",
    }
    assert model.blocks.stacked.mlp.gate.adapter is None  # type: ignore[attr-defined]
    trained, frozen = split(model, trained_with_adapter(model))
    assert set(jax.tree.leaves(roles(trained))) == {Role.ADAPTER}
    assert Role.ADAPTER not in jax.tree.leaves(roles(frozen))
    both = joined(trained, frozen)
    assert jax.tree.structure(both) == jax.tree.structure(model)
    assert all(one is other for one, other in zip(jax.tree.leaves(both), jax.tree.leaves(model), strict=True))
    assert split(model)[0] is model


def test_masks_of_dropout_depend_on_the_sequence_the_layer_and_the_map() -> None:
    model = adapted(make(LLAMA, length=8), dropout=0.5)
    seeds = jnp.asarray([7, 9], jnp.uint32)
    once, again = (logits(with_dropout(model, seeds)) for _ in range(2))
    assert np.array_equal(once, again)
    assert np.abs(once - logits(model)).max() > 1e-3
    swapped = logits(with_dropout(model, seeds[::-1]))
    assert not np.array_equal(once, swapped)
    own = with_dropout(model, seeds)
    found = [
        np.asarray(node.adapter.seeds.array)
        for node in jax.tree.leaves(own, is_leaf=_is_linear)
        if _is_linear(node) and node.adapter
    ]
    assert found[0].shape == (3, 2)
    assert len(np.unique(np.concatenate(found))) == sum(one.size for one in found)


def test_the_mean_of_many_masks_is_the_input() -> None:
    model = adapted(make(LLAMA, length=8), dropout=0.25)
    adapter = dataclasses.replace(
        model.blocks.stacked.attention.query.adapter, seeds=hax.arange(hax.Axis("batch", 400), dtype=jnp.uint32)
    )  # type: ignore[attr-defined]
    ones = hax.ones((hax.Axis("batch", 400), hax.Axis("position", 8), hax.Axis("embed", 24)))
    dropped = np.asarray(adapter._dropped(ones).array)
    assert set(np.unique(dropped)) == {0.0, np.float32(4 / 3)}
    assert dropped.mean() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_dora_with_dropout_computes_what_peft_computes_with_the_same_masks(dtype: Any) -> None:
    """``make parity`` compares the formula with peft itself."""
    batch, position, inputs, outputs = (hax.Axis(*one) for one in (("batch", 3), ("position", 5), ("i", 7), ("o", 6)))
    noise = np.random.default_rng(0)

    def drawn(*axes: hax.Axis) -> Any:
        return hax.named(noise.standard_normal([axis.size for axis in axes]).astype(np.float32), axes)

    linear = Linear((inputs,), Role.MATRIX, drawn(inputs, outputs), drawn(outputs))
    options: Any = {"dropout": 0.4, "dora": True, "key": jax.random.key(1)}
    adapter = LowRank.init(linear.weight, (inputs,), 2, 1.5, **options)
    adapter = dataclasses.replace(
        adapter,
        up=drawn(adapter.rank, outputs),
        magnitude=adapter.magnitude * 1.3,
        seeds=hax.arange(batch, dtype=jnp.uint32),
    )
    x = drawn(batch, position, inputs).astype(dtype)
    factors = adapter._dropped(hax.ones((batch, position, inputs)))
    assert set(np.unique(factors.array)) == {0.0, np.float32(1 / (1 - 0.4))}
    found = dataclasses.replace(linear, adapter=adapter)(x).astype(jnp.float32).array
    arrays = [np.asarray(one.array, np.float32) for one in (linear.weight, adapter.down, adapter.up, adapter.magnitude)]
    rows = [np.asarray(one.array, np.float32).reshape(-1, 7) for one in (x, factors)]
    expected = dora_with_dropout(*rows, *arrays, 1.5) + np.asarray(linear.bias.array)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.03
    assert np.abs(np.asarray(found).reshape(-1, 6) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(
    ("family", "lora", "sentence"),
    [
        (
            "llama",
            {"targets": ["*.attention.*", "*.atention.*"]},
            r"targets: '\*.atention.\*' matches no weight .* blocks.stacked.attention.query.weight",
        ),
        ("llama", {"targets": ["embedding.weight"]}, "matches no weight of a linear map"),
        ("llama", {"targets": ["*norm*"]}, "matches no weight of a linear map"),
        ("mixtral", {"dropout": 0.1}, "lora.dropout: the targets match the weights of experts, blocks.stacked"),
        ("mixtral", {"dora": True}, "lora.dora: the targets match the weights of experts"),
    ],
)
def test_what_an_adapter_cannot_do_is_refused(family: str, lora: dict[str, Any], sentence: str) -> None:
    model = make(FAMILIES[family], length=8)
    with pytest.raises(BadConfiguration, match=sentence):
        with_adapter(model, LoraSpec(**lora), jax.random.key(0))


def test_a_model_that_reads_a_weight_instead_of_calling_the_map_is_refused() -> None:
    class Direct(type(make(LLAMA, length=8))):  # type: ignore[misc]
        def __call__(self, inputs: Inputs, **options: Any) -> Any:
            attention = self.blocks.stacked.attention
            plain = dataclasses.replace(attention, value=dataclasses.replace(attention.value, adapter=None))
            block = dataclasses.replace(self.blocks.stacked, attention=plain)
            inner = type(self).__mro__[1](
                **{f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
                | {"blocks": dataclasses.replace(self.blocks, stacked=block)}
            )
            return inner(inputs, **options)

    model = with_adapter(make(LLAMA, length=8), LoraSpec(), jax.random.key(0))
    direct = Direct(**{field.name: getattr(model, field.name) for field in dataclasses.fields(model)})
    with pytest.raises(BadConfiguration, match=r"does not compute the adapter blocks.stacked.attention.value.adapter"):
        check_used(direct)
