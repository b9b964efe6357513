"""Both implementations of attention have the values and gradients of plain NumPy, for every mask and option."""

from __future__ import annotations

import functools
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from haliax import NamedArray

from halcyon.models.parts.attention import attention
from halcyon.models.parts.attention_choice import Implementation
from halcyon.models.parts.masks import Block, Causal, Mask, Prefix, Segments, Window
from tests.trainer.models.plain_attention import Sees, plain_attention

BATCH, POSITION, HEADS, GROUP, SIZE, VALUE = hax.make_axes(
    batch=2, position=32, kv_heads=2, q_heads_per_group=2, head_size=4, value_size=6
)
KEYS = POSITION.alias("key_position")
LONGER = KEYS.resize(48)
STARTS = np.array([[0, 5, 6, 19], [0, 11, 12, 30]])
SEGMENT = np.stack([np.searchsorted(row, np.arange(32), side="right") for row in STARTS])
MASKS: dict[str, tuple[Mask | None, Sees]] = {
    "none": (None, lambda row, query, key: True),
    "causal": (Causal(), lambda row, query, key: key <= query),
    "window": (Causal() & Window(7), lambda row, query, key: query - 7 < key <= query),
    "window-of-one": (Causal() & Window(1), lambda row, query, key: query == key),
    "window-alone": (Window(3), lambda row, query, key: query - 3 < key),
    "segments": (
        Causal() & Segments(hax.named(SEGMENT, (BATCH, POSITION))),
        lambda row, query, key: key <= query and SEGMENT[row, query] == SEGMENT[row, key],
    ),
    "segments-both-ways": (
        Segments(hax.named(SEGMENT, (BATCH, POSITION))),
        lambda row, query, key: bool(SEGMENT[row, query] == SEGMENT[row, key]),
    ),
    "nothing-for-some": (
        Causal() & Prefix(4) & Window(12),
        lambda row, query, key: query - 12 < key <= query and key < 4,
    ),
    "nothing-at-all": (Prefix(0), lambda row, query, key: False),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.2},
    "soft-cap": {"soft_cap": 1.5},
    "sinks": {"sinks": True},
    "all": {"scale": 0.7, "soft_cap": 2.0, "sinks": True},
}
BOTH = pytest.mark.parametrize("implementation", ["reference", "blockwise"])


def random(seed: int, *axes: hax.Axis) -> NamedArray:
    return hax.named(np.random.default_rng(seed).standard_normal([axis.size for axis in axes]).astype(np.float32), axes)


def arrays(keys: hax.Axis = KEYS, value: hax.Axis = VALUE) -> tuple[NamedArray, NamedArray, NamedArray, NamedArray]:
    """Random queries, keys, values and sinks."""
    return (
        random(0, BATCH, POSITION, HEADS, GROUP, SIZE),
        random(1, BATCH, keys, HEADS, SIZE),
        random(2, BATCH, keys, HEADS, value),
        random(3, HEADS, GROUP),
    )


@functools.partial(jax.jit, static_argnames=("implementation", "block", "with_sinks", "scale", "soft_cap"))
@functools.partial(jax.value_and_grad, has_aux=True)
def weighed(given, mask, weights, *, implementation=None, block=8, with_sinks=False, scale=None, soft_cap=None):
    query, key, value, sinks = given
    out = attention(
        query,
        key,
        value,
        mask,
        value_size=value.axes[-1],
        scale=scale,
        soft_cap=soft_cap,
        sinks=sinks if with_sinks else None,
        implementation=implementation,
        block=block,
    )
    assert out.dtype == query.dtype
    return hax.sum((out * weights).astype(jnp.float32)).scalar(), out


def difference(given: tuple[np.ndarray, ...], which: int, direction: np.ndarray, loss: Any) -> float:
    """The central difference of a loss along a direction."""
    moved = [[*given[:which], given[which] + sign * 1e-5 * direction, *given[which + 1 :]] for sign in (1, -1)]
    return (loss(*moved[0]) - loss(*moved[1])) / 2e-5


def check(
    mask: Mask | None,
    sees: Sees,
    options: dict[str, Any],
    implementation: Implementation,
    keys: hax.Axis = KEYS,
    dtype: str = "float32",
    block: int = 8,
) -> None:
    given = arrays(keys)
    weights = random(4, BATCH, POSITION, HEADS, GROUP, VALUE)
    with_sinks = options.get("sinks", False)
    how = {name: option for name, option in options.items() if name != "sinks"}
    how["block"] = block
    narrow = tuple(each.astype(dtype) for each in given)
    (_, out), gradients = weighed(
        narrow, mask, weights.astype(dtype), implementation=implementation, with_sinks=with_sinks, **how
    )
    wide = tuple(np.asarray(each.array.astype(jnp.float32), np.float64) for each in narrow)

    def plain(query: np.ndarray, key: np.ndarray, value: np.ndarray, sinks: np.ndarray) -> np.ndarray:
        scale = how.get("scale", SIZE.size**-0.5)
        return plain_attention(
            query, key, value, sees, scale=scale, soft_cap=how.get("soft_cap"), sinks=sinks if with_sinks else None
        )

    tolerance = {"float32": 2e-5, "bfloat16": 3e-2}[dtype]
    found = np.asarray(out.rearrange((BATCH, POSITION, HEADS, GROUP, VALUE)).array.astype(jnp.float32))
    np.testing.assert_allclose(found, plain(*wide), rtol=tolerance, atol=tolerance)

    factors = np.asarray(weights.array, np.float64)

    def loss(*given: np.ndarray) -> float:
        return float((plain(*given) * factors).sum())

    for which, gradient in enumerate(gradients):
        leaf = np.asarray(gradient.array.astype(jnp.float32), np.float64)
        direction = np.random.default_rng(which).standard_normal(leaf.shape)
        expected = difference(wide, which, direction, loss)
        assert float((leaf * direction).sum()) == pytest.approx(
            expected, abs=tolerance * (1 + 20 * np.linalg.norm(leaf))
        ), which


@BOTH
@pytest.mark.parametrize("name", MASKS)
def test_every_mask_is_that_of_plain_numpy(name: str, implementation: Implementation) -> None:
    check(*MASKS[name], {}, implementation)


@BOTH
@pytest.mark.parametrize("options", [name for name in OPTIONS if name != "plain"])
@pytest.mark.parametrize("mask", ["causal", "nothing-for-some"])
def test_every_option_is_that_of_plain_numpy(mask: str, options: str, implementation: Implementation) -> None:
    check(*MASKS[mask], OPTIONS[options], implementation)


@pytest.mark.parametrize(("mask", "options"), [("none", "all"), ("segments", "plain"), ("window", "sinks")])
def test_a_block_need_not_divide_the_length(mask: str, options: str) -> None:
    check(*MASKS[mask], OPTIONS[options], "blockwise", block=12)
    if mask == "none":
        check(*MASKS[mask], OPTIONS[options], "blockwise", LONGER.resize(41), block=12)


@BOTH
@pytest.mark.parametrize("options", ["plain", "all"])
def test_bfloat16_stays_near(options: str, implementation: Implementation) -> None:
    check(*MASKS["segments"], OPTIONS[options], implementation, dtype="bfloat16")


def test_a_range_of_keys_is_as_narrow_as_the_mask_and_never_narrower() -> None:
    for mask, sees in MASKS.values():
        if mask is None:
            continue
        visible = np.asarray(
            mask.visible(Block.all_of(POSITION), Block.all_of(KEYS)).broadcast_to((BATCH, POSITION, KEYS)).array
        )
        for first in range(0, 32, 8):
            begin, end = mask.key_range(first, first + 7, 32)
            outside = np.ones(32, bool)
            outside[begin:end] = False
            assert not visible[:, first : first + 8, outside].any()
        expected = [[[sees(row, query, key) for key in range(32)] for query in range(32)] for row in range(2)]
        assert np.array_equal(visible, expected)
    assert (Causal() & Window(8)).key_range(16, 23, 32) == (9, 24)
    assert (Causal() & Prefix(4)).key_range(16, 23, 32) == (0, 4)


def test_blocks_that_the_mask_hides_are_not_computed() -> None:
    """The hidden blocks hold NaNs, which would spread if these blocks were computed."""
    query, key, value, sinks = arrays()
    spoiled = hax.named(value.array.at[:, :16].set(np.nan), value.axes)
    weights = np.zeros((2, 32, 2, 2, 6), np.float32)
    weights[:, 24:] = 1
    given, mask = (query, key, spoiled, sinks), Causal() & Window(8)
    (total, _), gradients = weighed(
        given, mask, hax.named(weights, (BATCH, POSITION, HEADS, GROUP, VALUE)), implementation="blockwise"
    )
    del total
    last = np.asarray(gradients[0].array)[:, 24:]
    assert np.isfinite(last).all()


def test_the_implementation_is_chosen_by_the_length() -> None:
    """Lengths of up to two blocks, and lengths that the block does not divide, are computed in one piece."""
    query, key, value, sinks = arrays()
    weights = random(4, BATCH, POSITION, HEADS, GROUP, VALUE)

    def loops(block: int) -> int:
        lowered = weighed.lower((query, key, value, sinks), Causal(), weights, block=block)
        return lowered.as_text().count("stablehlo.while")

    assert [loops(block) > 0 for block in (8, 16, 32, 12)] == [True, False, False, False]


def test_wrong_sizes_are_refused_in_a_sentence() -> None:
    given, weights = arrays(), random(4, BATCH, POSITION, HEADS, GROUP, VALUE)
    with pytest.raises(ValueError, match="soft_cap is 0; give a positive number, or None for no limit"):
        weighed(given, Causal(), weights, soft_cap=0)
    with pytest.raises(ValueError, match="a window of 0 positions sees nothing; give at least 1"):
        Window(0)


def test_memory_grows_with_the_length_and_not_with_its_square() -> None:
    def scratch_bytes(length: int) -> int:
        position = hax.Axis("position", length)

        def shape(*axes):
            return jax.eval_shape(lambda: hax.zeros(axes, dtype=jnp.float32))

        query, key = shape(position, HEADS, GROUP, SIZE), shape(position.alias("key_position"), HEADS, SIZE)

        def loss(query, key, value):
            return hax.sum(attention(query, key, value, Causal(), block=64)).scalar()

        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(query, key, key).compile().memory_analysis().temp_size_in_bytes

    assert scratch_bytes(4096) < 2.5 * scratch_bytes(2048)
