"""The choice of a token follows its settings, and nothing but its seed and number decides the random numbers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.inference.sampling import Controls, Sampling, filtered, next_tokens, penalised

_PLAIN = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "frequency_penalty": 0.0,
    "presence_penalty": 0.0, "seed": 0, "number": 0,
}  # fmt: skip
_TYPES = {"top_k": jnp.int32, "seed": jnp.uint32, "number": jnp.int32}
_filtered = jax.jit(filtered)


@jax.jit
def _next_tokens(logits: jax.Array, controls: Controls) -> jax.Array:
    return next_tokens(logits, jnp.zeros(logits.shape, bool), jnp.zeros(logits.shape, jnp.int32), controls)


def _controls(rows: int = 1, **changed: Any) -> Controls:
    """Plain settings for some rows; a changed one is a number, or one for each row."""
    values = {**_PLAIN, **changed}
    return Controls(
        **{name: jnp.broadcast_to(jnp.asarray(x, _TYPES.get(name, jnp.float32)), (rows,)) for name, x in values.items()}
    )


def _left(probabilities: list[float], **changed: Any) -> list[int]:
    """The tokens that the filters leave."""
    logits = jnp.log(jnp.asarray([probabilities]))
    return np.flatnonzero(np.isfinite(_filtered(logits, _controls(**changed))[0])).tolist()


def test_filters_leave_the_tokens_of_their_definitions() -> None:
    probabilities = [0.1, 0.4, 0.05, 0.25, 0.2]
    assert _left(probabilities) == [0, 1, 2, 3, 4]
    assert _left(probabilities, top_k=2) == [1, 3]
    assert _left(probabilities, top_p=0.64) == [1, 3]  # the fewest whose sum is at least 0.64
    assert _left(probabilities, top_p=0.66) == [1, 3, 4]
    assert _left(probabilities, top_p=1e-6) == [1]
    assert _left(probabilities, min_p=0.3) == [1, 3, 4]
    assert _left(probabilities, top_k=3, top_p=0.7) == [
        1,
        3,
    ]  # 0.4 + 0.25 of the 0.85 that top-k leaves are more than 0.7
    assert _left([0.25, 0.25, 0.25, 0.25], top_k=2) == [0, 1]  # of equal tokens the first ones


def test_penalties_are_those_of_their_definitions() -> None:
    """Of Hugging Face for tokens of prompt and text, and of OpenAI for tokens of the text."""
    logits = jnp.asarray([[2.0, -2.0, 1.0, 4.0]])
    prompted, written = jnp.asarray([[True, False, False, False]]), jnp.asarray([[0, 1, 0, 3]])

    def changed(**penalties: float) -> list[float]:
        return penalised(logits, prompted, written, _controls(**penalties))[0].tolist()

    assert changed(repetition_penalty=2.0) == [1.0, -4.0, 1.0, 2.0]
    assert changed(frequency_penalty=0.5) == [2.0, -2.5, 1.0, 2.5]
    assert changed(presence_penalty=0.5) == [2.0, -2.5, 1.0, 3.5]
    assert changed(repetition_penalty=2.0, frequency_penalty=1.0, presence_penalty=-0.5) == [1.0, -4.5, 1.0, -0.5]


def test_tokens_are_as_frequent_as_their_probabilities() -> None:
    probabilities, rows = np.array([0.5, 0.3, 0.15, 0.05]), 4000
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(probabilities)), (rows, 4))
    controls = _controls(rows, seed=np.arange(rows))
    found = np.bincount(_next_tokens(logits, controls), minlength=4) / rows
    np.testing.assert_allclose(found, probabilities, atol=0.03)
    squared = probabilities**2 / np.sum(probabilities**2)
    found = np.bincount(
        _next_tokens(logits, controls._replace(temperature=jnp.full(rows, 0.5))),
        minlength=4,
    )
    np.testing.assert_allclose(found / rows, squared, atol=0.03)


def test_the_token_of_a_row_does_not_depend_on_the_others() -> None:
    """A neighbour with filters changes no other row, although only it needs the sort."""
    logits = jax.random.normal(jax.random.key(3), (6, 50))
    alone = _next_tokens(logits, _controls(6, seed=7, number=np.arange(6)))
    beside = _next_tokens(logits, _controls(6, seed=7, number=np.arange(6), top_k=[0, 3, 0, 0, 5, 0]))
    np.testing.assert_array_equal(np.asarray(alone)[[0, 2, 3, 5]], np.asarray(beside)[[0, 2, 3, 5]])
    greedy = _next_tokens(logits, _controls(6, temperature=0.0, seed=np.arange(6)))
    np.testing.assert_array_equal(greedy, np.argmax(logits, -1))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; give a number from 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0; give a number above 0, at most 1"),
        ({"min_p": 2.0}, "min_p is 2.0; give a number from 0 to 1"),
        ({"seed": 2**32}, "seed is 4294967296; give an integer from 0 to 4294967295"),
        ({"max_tokens": 0}, "max_tokens is 0; give at least 1"),
        ({"stop": ("",)}, "stop has an empty string"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**changed)
