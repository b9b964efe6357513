"""The choice of the next token: pure functions of the logits, the settings of each row, and its seed.

The order of the changes is that of ``transformers``: penalties, temperature, top-k, top-p, min-p. Each later one sees
the probabilities that the earlier ones left. The random numbers of a token depend on the request's seed and on the
number of the token alone, so the text of a request does not depend on the other requests.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

MOST_SEED = 2**32 - 1
"""The greatest seed."""


@dataclass(frozen=True)
class Sampling:
    """The settings of a request.

    Attributes:
        max_tokens: Most tokens of the text.
        temperature: The logits are divided by it. 0: always the most likely token.
        top_k: Choose among this number of the most likely tokens (Fan et al. 2018). 0: among all.
        top_p: Choose among the most likely tokens whose probabilities together reach this sum (Holtzman et al. 2020).
        min_p: Leave out tokens whose probability is below this part of the greatest one (Nguyen et al. 2024).
        repetition_penalty: Divides positive logits, and multiplies negative ones, of tokens of the prompt and of the
            text (Keskar et al. 2019). 1: none.
        seed: Decides the random numbers.
        stop: The text ends before the first of these strings.
        alternatives: Most likely tokens to report with each token, at most those of the engine. None: those of the
            engine.
        frequency_penalty: Each time that a token is in the text takes this from its logit, as OpenAI defines it. The
            prompt does not count. 0: none.
        presence_penalty: The same, but once for a token that is in the text. 0: none.

    Raises:
        ValueError: A setting is out of its range.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    alternatives: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        rules = (
            ("max_tokens", self.max_tokens >= 1, "at least 1"),
            ("temperature", 0 <= self.temperature < float("inf"), "a number from 0"),
            ("top_k", 0 <= self.top_k < 2**31, "0 for all tokens, or a number of tokens"),
            ("top_p", 0 < self.top_p <= 1, "a number above 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "a number from 0 to 1"),
            ("repetition_penalty", 0 < self.repetition_penalty < float("inf"), "a positive number"),
            ("frequency_penalty", abs(self.frequency_penalty) < float("inf"), "a number"),
            ("presence_penalty", abs(self.presence_penalty) < float("inf"), "a number"),
            ("alternatives", self.alternatives is None or self.alternatives >= 0, "a number from 0"),
            ("seed", 0 <= self.seed <= MOST_SEED, f"an integer from 0 to {MOST_SEED}"),
        )
        for name, holds, fix in rules:
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)}; give {fix}")
        if not all(self.stop):
            raise ValueError("stop has an empty string, which every text contains; leave it out")


class Controls(NamedTuple):
    """The settings of all rows, as arrays [row]; see `Sampling`."""

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    repetition_penalty: jax.Array
    frequency_penalty: jax.Array
    presence_penalty: jax.Array
    seed: jax.Array
    """uint32."""
    number: jax.Array
    """int32: the number of the next token in the text of its request."""


def next_tokens(logits: jax.Array, prompted: jax.Array, written: jax.Array, controls: Controls) -> jax.Array:
    """The next token of each row: int32 [row].

    Work that no row needs is left out: the penalties, the sort of the filters, and the random numbers each cost more
    than a choice.

    Args:
        logits: float32 [row, token]; -inf for a token that is never chosen.
        prompted: bool [row, token]: tokens of the prompt.
        written: int32 [row, token]: how often each token is in the text.
        controls: The settings.
    """
    penalties = (
        (controls.repetition_penalty != 1) | (controls.frequency_penalty != 0) | (controls.presence_penalty != 0)
    )
    changed = jax.lax.cond(
        jnp.any(penalties), penalised, lambda logits, *_: logits, logits, prompted, written, controls
    )
    greedy, best = controls.temperature == 0, most_likely(changed)
    return jnp.where(greedy, best, jax.lax.cond(jnp.all(greedy), lambda *_: best, _drawn, changed, controls))


def _drawn(logits: jax.Array, controls: Controls) -> jax.Array:
    """A random token of each row: int32 [row]. It is that of ``jax.random.categorical`` (the Gumbel-max trick)."""
    scaled = logits / jnp.where(controls.temperature == 0, 1.0, controls.temperature)[:, None]
    filters = (controls.top_k > 0) | (controls.top_p < 1) | (controls.min_p > 0)
    kept = jax.lax.cond(jnp.any(filters), filtered, lambda logits, _: logits, scaled, controls)

    def noise(seed: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), number), logits.shape[-1:], logits.dtype)

    return most_likely_with(jax.vmap(noise)(controls.seed, controls.number), kept)


def most_likely_with(noise: jax.Array, logits: jax.Array) -> jax.Array:
    """`most_likely` of logits with noise, both [row, token]: with Gumbel noise a random token of each row."""
    # Inside of the loop over the maximum, XLA would compute the noise one number at a time.
    return most_likely(jax.lax.optimization_barrier(noise) + logits)


_LANES = 128


def most_likely(logits: jax.Array) -> jax.Array:
    """The first index of the greatest logit of each row: int32 [row].

    XLA compares the numbers of an ``argmax`` one after another. Here it compares 128 at a time: first their greatest
    value, then the first place where it is.
    """
    rows, size = logits.shape
    if size < 8 * _LANES:
        return jnp.argmax(logits, -1).astype(jnp.int32)
    short = -size % _LANES
    padded = jnp.pad(logits, ((0, 0), (0, short)), constant_values=-jnp.inf) if short else logits
    lanes = padded.reshape(rows, -1, _LANES)
    greatest = jnp.max(jax.lax.optimization_barrier(jnp.max(lanes, 1)), -1)
    places = jnp.arange(size + short, dtype=jnp.int32).reshape(1, -1, _LANES)
    found = jnp.where(lanes == greatest[:, None, None], places, size)
    first = jnp.min(jax.lax.optimization_barrier(jnp.min(found, 1)), -1)
    return jnp.where(first < size, first, 0)  # of a row that has numbers which are none, the first token


def penalised(logits: jax.Array, prompted: jax.Array, written: jax.Array, controls: Controls) -> jax.Array:
    """`logits` with the penalties of each row; see `next_tokens` and `Sampling`."""
    by, is_written = controls.repetition_penalty[:, None], written > 0
    repeated = jnp.where(prompted | is_written, jnp.where(logits > 0, logits / by, logits * by), logits)
    frequency, presence = controls.frequency_penalty[:, None], controls.presence_penalty[:, None]
    return repeated - frequency * written - presence * is_written


def filtered(logits: jax.Array, controls: Controls) -> jax.Array:
    """`logits` [row, token], with -inf for tokens that top-k, top-p or min-p leave out.

    The most likely token always stays.
    """
    order = jnp.argsort(-logits, axis=-1, stable=True)
    ordered = jnp.take_along_axis(logits, order, -1)
    ranks = jnp.arange(logits.shape[-1])
    kept = (controls.top_k[:, None] <= 0) | (ranks < controls.top_k[:, None])
    before = _before(jnp.where(kept, ordered, -jnp.inf))
    kept &= (before < controls.top_p[:, None]) | (controls.top_p[:, None] >= 1)
    # The ratio of a probability to the greatest one does not depend on the tokens that are left out.
    kept &= jnp.exp(ordered - ordered[:, :1]) >= controls.min_p[:, None]
    kept = kept.at[:, 0].set(True)
    rows = jnp.arange(len(logits))[:, None]
    return jnp.where(jnp.zeros(logits.shape, bool).at[rows, order].set(kept), logits, -jnp.inf)


def _before(ordered: jax.Array) -> jax.Array:
    """The sum of the probabilities before each token."""
    probabilities = jax.nn.softmax(ordered)
    return jnp.cumsum(probabilities, -1) - probabilities
