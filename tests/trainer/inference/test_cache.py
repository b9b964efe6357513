"""With a cache, every family computes the numbers that it computes without one."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models import Inputs
from halcyon.models.cache import Cache, KeepsCache
from halcyon_api.spec.families.section import ModelSection
from tests.trainer.models.cases import FAMILIES, GPT2, LENGTH, LLAMA, VOCAB, WITH_CACHE, logits, make, named

_SHOWN = ("gemma2", "deepseek-v3", "qwen3-next", "nanochat")
"""Windows and soft caps, latent attention, gated delta nets, the embedding before each token.

The other families are further cases.
"""
_TOLERANCE = {"qwen3-next": 5e-5}
"""A part of the greatest logit. By default 1e-5. Here six layers of gated delta nets and experts amplify rounding: with
the large weights of these tests, a shorter sequence differs by 4e-6 of it even without a cache."""
_EVERY = [pytest.param(name, id=name, marks=() if name in _SHOWN else pytest.mark.variant) for name in WITH_CACHE]
_CALLS = ((6, (6, 4)), (6, (2, 6)), (1, (1, 1)), (1, (1, 1)))
"""Tokens of each call, and those that count in each row. Six tokens are more than a window of five."""


def _made(spec: ModelSection) -> Any:
    return make.__wrapped__(spec)  # not every section can be a key of its cache


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})
def _continued(model: Any, cache: Cache, tokens: jax.Array, counts: jax.Array) -> tuple[jax.Array, Cache]:
    outputs = model(Inputs(hax.named(tokens, ("batch", "position"))), cache=cache.expecting(counts))
    return model.logits(outputs.features).rearrange(("batch", "position", "vocab")).array, outputs.cache


def _paged(model: Any, rows: int = 2) -> Cache:
    """A cache with pages of four positions; the pages of a row are in no order."""
    cache = Cache.of(model.kept, rows, LENGTH, "float32", page=4, pages=8)
    return dataclasses.replace(cache, table=jnp.asarray([[5, 0, 7], [2, 6, 1]][:rows], jnp.int32))


@pytest.mark.slow
@pytest.mark.parametrize("name", _EVERY)
def test_logits_with_a_cache_are_those_without(name: str) -> None:
    model = _made(FAMILIES[name])
    tokens = np.random.default_rng(5).integers(0, VOCAB.size, (2, LENGTH), np.int32)
    expected = np.asarray(logits(model, named(tokens)))
    cache, done = _paged(model), np.zeros(2, int)
    for size, counts in _CALLS:
        padded = np.zeros((2, size), np.int32)
        for row, count in enumerate(counts):
            padded[row, :count] = tokens[row, done[row] : done[row] + count]
        found, cache = _continued(model, cache, jnp.asarray(padded), jnp.asarray(counts, jnp.int32))
        for row, count in enumerate(counts):
            ours, theirs = found[row, :count], expected[row, done[row] : done[row] + count]
            np.testing.assert_allclose(
                ours, theirs, atol=_TOLERANCE.get(name, 1e-5) * max(1.0, np.abs(expected).max()), rtol=1e-5
            )
            np.testing.assert_array_equal(np.argmax(ours, -1), np.argmax(theirs, -1))
        done += counts
        np.testing.assert_array_equal(cache.lengths, done)
    assert done.tolist() == [10, 12]


@pytest.mark.parametrize("spec", [pytest.param(FAMILIES["gemma3"], id="gemma3")])
def test_a_windowed_layer_keeps_its_window_only(spec: ModelSection) -> None:
    cache = Cache.of(_made(spec).kept, 3, LENGTH, "float32", page=4, pages=5)
    windowed, whole = cache.groups["window 5"], cache.groups["all"]
    assert [(x.shape[1], x.shape[-2]) for x in windowed.arrays] == [(3, 5)] * 2
    assert [x.shape[1:3] for x in whole.arrays] == [(5, 4)] * 2
    assert windowed.arrays[0].shape[0] + whole.arrays[0].shape[0] == 8


def test_latent_attention_keeps_one_vector_for_all_heads() -> None:
    cache = Cache.of(_made(FAMILIES["deepseek-v3"]).kept, 1, LENGTH, "float32")
    (kept,) = cache.groups["all"].arrays
    assert kept.shape[3:] == (13 + 6,)


@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_the_program_of_a_model_without_a_cache_has_none_of_it(spec: ModelSection) -> None:
    """The keyword changes no operation: a program without it and one with None are the same text."""
    model, tokens = _made(spec), named(np.zeros((2, LENGTH), np.int32))
    plain = jax.make_jaxpr(lambda model: model(Inputs(tokens)).features.array)(model)
    none: Any = jax.make_jaxpr(lambda model: model(Inputs(tokens), cache=None).features.array)(model)
    assert str(plain) == str(none)
    assert "scatter" not in str(plain)


def test_a_cache_is_refused_that_does_not_fit() -> None:
    model = _made(LLAMA)
    assert isinstance(model, KeepsCache)
    with pytest.raises(ValueError, match="a cache of 13 tokens is longer than the model's 12 positions"):
        model.new_cache(1, LENGTH + 1, "float32")
    with pytest.raises(ValueError, match="give positive numbers"):
        model.new_cache(0, LENGTH, "float32")
    tokens = named(np.zeros((1, 2), np.int32))
    with pytest.raises(ValueError, match="give tokens only"):
        model(Inputs(tokens, segments=tokens), cache=model.new_cache(1, LENGTH, "float32"))
