"""Documents narrow the range of keys that attention visits, and change no bit by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halcyon.models.parts import splash_attention
from halcyon.models.parts.attention import attention
from halcyon.models.parts.attention_choice import Implementation, Target, attending
from halcyon.models.parts.masks import Block, Causal, Mask, Prefix, Segments, Window
from halcyon.parallel.partition import computing
from tests.trainer.models.test_attention_forms import Case, computed
from tests.trainer.support.meshes import mesh_from

BATCH, POSITION, SIZE = hax.make_axes(batch=2, position=64, head_size=4)
KEYS, BLOCK = POSITION.alias("key_position"), 8
LENGTHS = ([20, 9, 3, 32], [1, 30, 33])
IDS = np.stack([np.repeat(np.arange(len(lengths)), lengths) for lengths in LENGTHS]).astype(np.int32)


def segments(ids: np.ndarray = IDS) -> Segments:
    return Segments(hax.named(jnp.asarray(ids), (BATCH, POSITION)))


MASKS: dict[str, Callable[[Segments], Mask]] = {
    "documents": lambda documents: documents,
    "causal": lambda documents: Causal() & documents,
    "window": lambda documents: Causal() & Window(5) & documents,
    "documents-and-prefix": lambda documents: Causal() & documents & Prefix(40),
    "keys": lambda documents: (
        Causal() & Segments(documents.of_queries, documents.of_queries.rename({"position": "key_position"}))
    ),
}


@settings(max_examples=30)
@given(st.sampled_from(list(MASKS)), st.integers(0, 2**16), st.booleans())
def test_a_range_holds_all_visible_keys_whatever_the_ids(name: str, seed: int, rising: bool) -> None:
    noise = np.random.default_rng(seed)
    ids = np.cumsum(noise.random((2, 64)) < 0.1, 1) if rising else noise.integers(0, 3, (2, 64))
    mask = MASKS[name](segments(ids.astype(np.int32)))
    found = mask.block_ranges(POSITION, KEYS, BLOCK)
    visible = np.asarray(
        mask.visible(Block.all_of(POSITION), Block.all_of(KEYS)).rearrange((BATCH, POSITION, KEYS)).array
    )
    blocks = visible.reshape(2, 8, BLOCK, 8, BLOCK).any((0, 2, 4))
    if found is not None:
        for number, (first, end) in enumerate(zip(found.first, found.end, strict=True)):
            assert not blocks[number, : int(first)].any()
            assert not blocks[number, int(end) :].any()


def test_a_range_is_as_narrow_as_the_documents_of_all_rows() -> None:
    found = (Causal() & segments()).block_ranges(POSITION, KEYS, BLOCK)
    assert found is not None
    assert found.first.tolist() == [0, 0, 0, 0, 3, 3, 3, 3]
    one = Segments(hax.named(jnp.asarray(IDS[0]), POSITION)).block_ranges(POSITION, KEYS, BLOCK)
    assert one is not None
    assert (one.first.tolist(), one.end.tolist()) == ([0, 0, 0, 2, 4, 4, 4, 4], [3, 3, 4, 4, 8, 8, 8, 8])


def gradients(implementation: Implementation, scale: int, hidden: float) -> list[np.ndarray]:
    """The gradients of the losses of one document, which fills its blocks, by its own arrays; all arrays are `hidden`
    in other blocks.

    Args:
        implementation: Computes it.
        scale: Factor of all lengths and of the block.
        hidden: The number in other blocks.
    """
    position = POSITION.resize(64 * scale)
    keys, noise = position.alias("key_position"), np.random.default_rng(0)
    ids = np.repeat(np.array([[0, 1, 1, 2], [0, 3, 3, 4]], np.int32), 16 * scale, 1)
    of_document = slice(16 * scale, 48 * scale)
    arrays = np.full((3, 2, position.size, 4), hidden, np.float32)
    arrays[:, :, of_document] = noise.standard_normal(arrays[:, :, of_document].shape)

    def loss(query: Any, key: Any, value: Any) -> Any:
        out = attention(
            hax.named(query, (BATCH, position, SIZE)),
            hax.named(key, (BATCH, keys, SIZE)),
            hax.named(value, (BATCH, keys, SIZE)),
            Causal() & Segments(hax.named(jnp.asarray(ids), (BATCH, position))),
            implementation=implementation,
            block=BLOCK * scale,
        )
        return jnp.sum(out.rearrange((BATCH, position, SIZE)).array[:, of_document])

    return [np.asarray(x)[:, of_document] for x in jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays)]


@pytest.mark.parametrize(("implementation", "scale"), [("blockwise", 1), ("ring", 1), ("splash", 16)])
def test_blocks_of_other_documents_are_not_computed(implementation: Implementation, scale: int) -> None:
    """They hold NaNs, which would spread."""
    target = Target("cpu", interpret=implementation == "splash")
    with computing(mesh_from("context 2" if implementation == "ring" else "data 1")), attending(implementation, target):
        hidden = gradients(implementation, scale, np.nan)
        for found, other in zip(hidden, gradients(implementation, scale, 0.0), strict=True):
            assert found.any()
            assert np.array_equal(found, other)


CASE = Case(64, 2, 2, 16, "segments", 9, None, sinks=False, dtype="float32", block=8, seed=5)
CASES = {
    "plain": CASE,
    "all": CASE._replace(mask="segments-window", soft_cap=1.5, sinks=True, dtype="bfloat16"),
    "uneven": CASE._replace(length=61, sinks=True),
    "long": CASE._replace(length=512, mask="segments-window", window=200, sinks=True, block=128),
}


@pytest.mark.parametrize(
    ("implementation", "name", "mesh"),
    [
        ("blockwise", "all", "data 1"),
        ("ring", "plain", "context 2"),
        ("splash", "long", "data 1"),
        pytest.param("blockwise", "plain", "data 1", marks=pytest.mark.variant),
        pytest.param("blockwise", "uneven", "data 1", marks=pytest.mark.variant),
        pytest.param("blockwise", "plain", "data 2 x tensor 2", marks=pytest.mark.variant),
        pytest.param("ring", "all", "context 4", marks=pytest.mark.variant),
    ],
)
def test_the_bits_are_those_of_the_whole_range(
    implementation: Implementation, name: str, mesh: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block without a visible key adds zeros."""
    target = Target("cpu", interpret=implementation == "splash")

    def run() -> list[np.ndarray]:
        with attending(implementation, target):
            return computed(CASES[name], implementation, computing(mesh_from(mesh)))

    narrow = run()
    monkeypatch.setattr(Segments, "block_ranges", Mask.block_ranges)
    monkeypatch.setattr(
        splash_attention, "shared_blocks", lambda queries, keys, block: jnp.ones((queries.shape[1] // block,) * 2, bool)
    )
    for found, whole in zip(narrow, run(), strict=True):
        assert found.tobytes() == whole.tobytes()
