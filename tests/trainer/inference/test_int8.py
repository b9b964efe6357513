"""Weights in 8 bits: small in memory, close in their probabilities."""

from __future__ import annotations

from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import halcyon
from halcyon.inference import Engine, Sampling
from halcyon.models import int8
from halcyon.models.int8 import Int8Embedding, Int8Linear, int8_product, quantized, rounded, stored_bytes
from halcyon_api.spec.families.section import ModelSection
from tests.trainer.models.cases import LLAMA, TIED_LLAMA, VOCAB, WITH_CACHE, changed, make

_NOISE = np.random.default_rng(2)


def _named(shape: dict[str, int]) -> hax.NamedArray:
    return hax.named(jnp.asarray(_NOISE.standard_normal(tuple(shape.values())), jnp.float32), tuple(shape))


def test_integers_and_scales_have_the_values_of_their_definition() -> None:
    values = _NOISE.standard_normal((2, 6, 3)).astype(np.float32)
    values[0, :, 1] = 0.0  # an output without weights
    weight = hax.named(jnp.asarray(values), ("layers", "embed", "out"))
    rows, scale = rounded(weight, (weight.resolve_axis("embed"),))
    assert (rows.axis_names, rows.dtype, scale.axis_names) == (("layers", "out", "embed"), jnp.int8, ("layers", "out"))
    wide = np.asarray(weight.rearrange(("layers", "out", "embed")).array)
    greatest = np.abs(wide).max(-1)
    np.testing.assert_allclose(scale.array, np.where(greatest > 0, greatest / 127, 1), rtol=1e-6)
    error = np.abs(np.asarray((rows.astype(jnp.float32) * scale).array) - wide)
    assert np.all(error <= np.asarray(scale.array)[..., None] * 0.5001)
    assert np.abs(rows.array).max() == 127


@pytest.mark.parametrize("rows", [1, 5])
def test_a_product_in_blocks_is_the_product(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_BLOCK", 64)
    x, weight = _named({"batch": rows, "position": 1, "embed": 16}), _named({"embed": 16, "heads": 6, "head_size": 4})
    integers, scale = rounded(weight, (weight.resolve_axis("embed"),))
    expected = hax.dot(x, integers.astype(jnp.float32) * scale, axis="embed", precision="highest")
    found = int8_product(x, integers, scale, (weight.resolve_axis("embed"),))
    assert found.axis_names == ("batch", "position", "heads", "head_size")
    np.testing.assert_allclose(found.array, expected.array, rtol=1e-5, atol=1e-6)


def _divergence(ours: Any, theirs: Any) -> float:
    """The mean Kullback-Leibler divergence of the tokens of a position, in nats."""
    ours, theirs = (np.asarray(jax.nn.log_softmax(x)) for x in (ours, theirs))
    return float(np.sum(np.exp(theirs) * (theirs - ours), -1).mean())


@pytest.mark.slow
def test_the_probabilities_of_a_model_stay_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "LEAST_WEIGHTS", 256)
    wide = changed(LLAMA, hidden_size=64, intermediate_size=128, num_attention_heads=4, num_key_value_heads=2)
    # Matrices with a standard deviation of about 1 / sqrt(inputs): larger ones saturate attention, which amplifies
    # every error.
    model = jax.tree.map(lambda leaf: leaf * 0.4 if leaf.ndim > 2 else leaf, make.__wrapped__(wide, length=32))
    tokens = _NOISE.integers(0, VOCAB.size, (2, 24))
    expected = halcyon.logits(model, tokens)
    small = quantized(model)
    assert stored_bytes(small) < 0.3 * stored_bytes(model)
    assert 0 < _divergence(halcyon.logits(small, tokens), expected) < 2e-3


@pytest.mark.slow
@pytest.mark.variant
@pytest.mark.parametrize("spec", [*WITH_CACHE.values(), TIED_LLAMA], ids=[*WITH_CACHE, "tied-llama"])
def test_an_engine_writes_with_weights_in_8_bits(spec: ModelSection, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens are the most likely ones of the model with the same integers as plain weights."""
    monkeypatch.setattr(int8, "LEAST_WEIGHTS", 1)
    model = quantized(make.__wrapped__(spec, length=32))
    kinds = {
        type(node) for node in jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Int8Linear | Int8Embedding))
    }
    assert {Int8Linear, Int8Embedding} <= kinds
    engine = Engine(model, slots=2)
    prompt = _NOISE.integers(0, VOCAB.size, 7)
    number, text = engine.submit(prompt, Sampling(8, temperature=0.0)), list(prompt)
    while engine.unfinished:
        text += [one.id for one in engine.step() if one.sequence == number]
    logits = np.asarray(halcyon.logits(model, np.asarray(text)[None]))[0]
    assert text[7:] == logits[6:-1].argmax(-1).tolist()
