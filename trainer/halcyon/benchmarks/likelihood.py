"""Log-likelihoods of parts of texts, many texts at once.

Texts are sorted by length, cut into batches of the same length, and padded on the right: later positions do not change earlier ones in a
causal model. Lengths are powers of two, so few programs are compiled. A batch has a fixed number of positions; short texts are therefore
computed in large numbers.

Logits are computed only where a token is scored, and in blocks. Several next tokens after the same text, such as the letters of multiple
choice, share one row.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from halcyon.errors import BadConfiguration
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, POSITION

BATCH_TOKENS = 8192
"""Positions of a batch."""
MAX_LOGIT_BYTES = 1 << 28
"""Largest size of the logits that are computed at a time."""
_SHORTEST, _FEWEST = 32, 4


@dataclass(frozen=True)
class Span:
    """The end of a text, which is scored.

    Attributes:
        tokens: The text: int32 [tokens].
        start: The place of its first token that is scored; at least 1.
        name: What it belongs to, for errors.
    """

    tokens: np.ndarray
    start: int
    name: str = "a text"


class Score(NamedTuple):
    """The log-likelihood of a span."""

    log_prob: float
    """Sum of the logarithms of the probabilities of its tokens, in nats."""
    tokens: int
    """Number of its tokens."""
    is_greedy: bool
    """Whether each of its tokens is the most likely one."""

    @property
    def per_token(self) -> float:
        """Mean logarithm of a token's probability."""
        return self.log_prob / self.tokens


class _Row(NamedTuple):
    """A row of a batch: the tokens that the model reads, and the tokens that are scored after some of its positions."""

    inputs: np.ndarray
    positions: np.ndarray
    targets: np.ndarray
    spans: tuple[int, ...]
    """Numbers of the spans; several share a row if each has one token."""


class Likelihoods:
    """Computes log-likelihoods with one model.

    Args:
        model: The model.
        compute_dtype: Type of activations and matrix products; logits and log-likelihoods are float32.
        batch_tokens: Positions of a batch.
    """

    def __init__(self, model: CausalLM, *, compute_dtype: DTypeLike = jnp.float32, batch_tokens: int = BATCH_TOKENS) -> None:
        self._model, self._dtype, self._batch_tokens = model, jnp.dtype(compute_dtype).name, batch_tokens

    def scores(self, spans: Sequence[Span]) -> list[Score]:
        """The score of each span, in their order.

        A text that is longer than the model's positions loses its beginning.

        Raises:
            BadConfiguration: The scored part alone is longer than the model's positions.
            ValueError: A span has no token, or no token before it.
        """
        found: list[Score | None] = [None] * len(spans)
        for batch in self._batches(_rows(spans, self._model.max_position.size)):
            log_probs, greedy = self._computed(batch)
            for row, of_row, is_best in zip(batch, log_probs, greedy, strict=False):
                if len(row.spans) == 1:
                    count = len(row.targets)
                    found[row.spans[0]] = Score(float(np.sum(of_row[:count], dtype=np.float64)), count, bool(np.all(is_best[:count])))
                else:
                    for place, span in enumerate(row.spans):
                        found[span] = Score(float(of_row[place]), 1, bool(is_best[place]))
        return [score for score in found if score is not None]

    def _batches(self, rows: list[_Row]) -> Iterator[list[_Row]]:
        """Rows of one length and number of targets."""
        rows.sort(key=lambda row: (*_shape(row, self._model), row.spans))
        begin = 0
        while begin < len(rows):
            shape = _shape(rows[begin], self._model)
            most = max(1, self._batch_tokens // shape[0])
            end = begin
            while end < len(rows) and end - begin < most and _shape(rows[end], self._model) == shape:
                end += 1
            yield rows[begin:end]
            begin = end

    def _computed(self, batch: list[_Row]) -> tuple[np.ndarray, np.ndarray]:
        length, count = _shape(batch[0], self._model)
        size = min(_power(len(batch), 1), max(1, self._batch_tokens // length))
        tokens, positions, targets = (np.zeros((size, width), np.int32) for width in (length, count, count))
        for place, row in enumerate(batch):
            tokens[place, : len(row.inputs)] = row.inputs
            positions[place, : len(row.positions)] = row.positions
            targets[place, : len(row.targets)] = row.targets
        blocks = _blocks(size * count, self._model.vocab.size)
        return jax.device_get(_scored(self._model, tokens, positions, targets, dtype=self._dtype, blocks=blocks))


@functools.partial(jax.jit, static_argnames=("dtype", "blocks"))
def _scored(
    model: CausalLM, tokens: jax.Array, positions: jax.Array, targets: jax.Array, *, dtype: str, blocks: int
) -> tuple[jax.Array, jax.Array]:
    """Log-probabilities of tokens after some positions, and whether each is the most likely one: float32 and bool [row, target].

    Args:
        model: The model.
        tokens: int32 [row, position].
        positions: int32 [row, target]: the position before each target.
        targets: int32 [row, target].
        dtype: Type of activations and matrix products.
        blocks: Number of blocks of logits.
    """
    outputs = model(Inputs(hax.named(tokens, (BATCH, POSITION))), compute_dtype=jnp.dtype(dtype))
    features = outputs.features.rearrange((BATCH, POSITION, model.embed.name)).array
    chosen = jnp.take_along_axis(features, positions[..., None], 1).reshape(blocks, -1, features.shape[-1])

    def of_block(block: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        named = hax.named(block[0][None], (BATCH, POSITION, model.embed.name))
        logits = model.logits(named).rearrange((BATCH, POSITION, model.vocab.name)).array[0].astype(jnp.float32)
        of_target = jnp.take_along_axis(logits, block[1][:, None], -1)[:, 0]
        return of_target - jax.nn.logsumexp(logits, -1), jnp.argmax(logits, -1) == block[1]

    log_probs, greedy = jax.lax.map(of_block, (chosen, targets.reshape(blocks, -1)))
    return log_probs.reshape(targets.shape), greedy.reshape(targets.shape)


def _rows(spans: Sequence[Span], most: int) -> list[_Row]:
    rows: list[_Row] = []
    after: dict[bytes, list[int]] = {}
    for number, span in enumerate(spans):
        if not 1 <= span.start < len(span.tokens):
            raise ValueError(f"{span.name}: the scored part begins at {span.start} of {len(span.tokens)} tokens; give a part with a token")
        count = len(span.tokens) - span.start
        if count > most:
            raise BadConfiguration(f"{span.name}: {count} tokens are scored, and the model has {most} positions; leave the example out")
        inputs = np.asarray(span.tokens[:-1], np.int32)[-most:]
        if count == 1:
            after.setdefault(inputs.tobytes(), []).append(number)
        else:
            rows.append(_Row(inputs, np.arange(len(inputs) - count, len(inputs)), np.asarray(span.tokens[-count:]), (number,)))
    for text, numbers in after.items():
        inputs = np.frombuffer(text, np.int32)
        last = np.full(len(numbers), len(inputs) - 1)
        rows.append(_Row(inputs, last, np.array([spans[number].tokens[-1] for number in numbers]), tuple(numbers)))
    return rows


def _shape(row: _Row, model: CausalLM) -> tuple[int, int]:
    """Positions and targets of the batch that a row belongs to."""
    length = min(_power(len(row.inputs), _SHORTEST), model.max_position.size)
    count = _FEWEST
    while count < len(row.targets):
        count *= 4
    return length, count


def _power(number: int, least: int) -> int:
    """The smallest power of two that is at least `number` and `least`."""
    return 1 << max(number - 1, least - 1, 0).bit_length()


def _blocks(positions: int, vocabulary: int) -> int:
    """The smallest number of equal blocks whose logits are small enough."""
    wanted = -(-positions * vocabulary * 4 // MAX_LOGIT_BYTES)
    return next(count for count in range(max(1, wanted), positions + 1) if positions % count == 0)


def span_of(prefix: Any, continuation: Any, name: str) -> Span:
    """The span of a continuation after a prefix, both token ids."""
    return Span(np.concatenate((prefix, continuation)).astype(np.int32), len(prefix), name)
