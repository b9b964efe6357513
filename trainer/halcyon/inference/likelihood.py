"""Log-likelihoods of parts of texts, many texts at once.

Two things make this fast. Texts that begin alike share the computation of their beginning: several next tokens after
the same text, such as the letters of multiple choice, are one row (`halcyon.inference.spans`); several endings of
the same text are rows that begin with a copy of the text's cache (`Group`). And logits are computed only where a token
is scored, in blocks.

Rows are sorted by length, cut into batches of nearly the same length, and padded on the right: later positions do not
change earlier ones in a causal model. There are two lengths for each doubling, so few programs are compiled. A batch
has about the same number of positions whatever the length of its rows.
"""

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from halcyon.inference.programs import features_of
from halcyon.inference.sampling import most_likely
from halcyon.inference.spans import Score, Span, TokenRow, bucket, power, rows_of
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, BESIDE, POSITION
from halcyon.models.cache import KeepsCache
from halcyon.models.softmax import block_count, most_logit_bytes
from halcyon.parallel.device_mesh import context_of, mesh_of

Member = TypeVar("Member")
Scores = dict[int, Score]
"""The scores of spans, by their numbers."""
Found = tuple[jax.Array, jax.Array]
"""Log-probabilities of tokens, and the most likely token, at each position."""
_SHORTEST = 32
"""Positions of the shortest rows and texts."""
_LEAST_SHARED = 8
"""Positions of the shortest text that is computed apart from its endings."""
MAX_LOGIT_BYTES_CPU = 1 << 23
"""Largest size of the logits that are computed at a time on a CPU, whose caches hold about as much."""


class Likelihoods:
    """Computes log-likelihoods with one model.

    Args:
        model: The model; it may be divided among devices (see `halcyon.parallel.device_mesh`).
        compute_dtype: Type of activations and matrix products; logits and log-likelihoods are float32.
        batch_tokens: Positions of a batch. Default: 1024 on a CPU, because more of them leave its caches and take
            longer each; else 16384, because an accelerator needs many to be busy.

    Raises:
        BadConfiguration: The model is an encoder.
    """

    def __init__(
        self, model: CausalLM, *, compute_dtype: DTypeLike = jnp.float32, batch_tokens: int | None = None
    ) -> None:
        model.require_decoder()
        self._model, self._dtype, self._mesh = model, jnp.dtype(compute_dtype).name, mesh_of(model)
        self._batch_tokens = batch_tokens or (1024 if jax.default_backend() == "cpu" else 16384)

    def scores(self, spans: Sequence[Span]) -> list[Score]:
        """The score of each span, in their order.

        A text that is longer than the model's positions loses its beginning.

        Raises:
            BadConfiguration: The scored part alone is longer than the model's positions.
            ValueError: A span has no token, no token before it, or one that the model does not have.
        """
        known = self._model.token_count
        for span in spans:
            if len(span.tokens) and not 0 <= span.tokens.min() <= span.tokens.max() < known:
                raise ValueError(f"{span.name} has a token that is not one of 0 to {known - 1}, which the model has")
        most = self._model.max_position.size
        rows = rows_of(spans, most)
        groups, alone = _grouped(rows) if isinstance(self._model, KeepsCache) else ([], rows)
        scores: Scores = {}
        with context_of(self._mesh):
            for batch in self._batches(alone, self._shape, lambda row: row.spans):
                scores.update(self._computed(batch))
            for batch in self._batches(groups, lambda group: group.shape(most), lambda group: group.rows[0].spans):
                scores.update(self._computed_together(batch))
        return [scores[number] for number in range(len(spans))]

    def _batches(
        self, members: list[Member], shape: Callable[[Member], tuple[int, ...]], spans: Callable[[Member], Any]
    ) -> Iterator[list[Member]]:
        """Members of one shape, which begins with the positions of each."""
        ordered = sorted(members, key=lambda member: (shape(member), spans(member)))
        for (positions, *_), group in itertools.groupby(ordered, shape):
            same, size = list(group), max(1, self._batch_tokens // positions)
            yield from (same[begin : begin + size] for begin in range(0, len(same), size))

    def _shape(self, row: TokenRow) -> tuple[int, ...]:
        """Positions, scored positions, and targets at each, of the batch that a row belongs to; and a number by which a
        row with images is alone.
        """
        length = min(bucket(len(row.inputs), _SHORTEST), self._model.max_position.size)
        return (
            length,
            power(len(row.targets), 1),
            power(row.targets.shape[1], 1),
            0 if row.images is None else row.spans[0] + 1,
        )

    def _computed(self, batch: list[TokenRow]) -> Scores:
        length, positions, targets, _ = self._shape(batch[0])
        size = min(power(len(batch), 1), max(1, self._batch_tokens // length))
        tokens, at = np.zeros((size, length), np.int32), np.zeros((size, positions), np.int32)
        wanted = np.zeros((size, positions, targets), np.int32)
        for place, row in enumerate(batch):
            tokens[place, : len(row.inputs)] = row.inputs
            at[place, : len(row.targets)] = np.arange(len(row.inputs) - len(row.targets), len(row.inputs))
            wanted[place, : len(row.targets), : row.targets.shape[1]] = row.targets
        images = batch[0].images
        seen = None if images is None else hax.named(images[None], BESIDE["images"])
        found = _scored(self._model, tokens, at, wanted, seen, dtype=self._dtype, mesh=self._mesh)
        log_probs, best = jax.device_get(found)
        return _scores(batch, log_probs, best)

    def _computed_together(self, batch: "Sequence[Group]") -> Scores:
        """The scores of the rows of some groups of one shape."""
        length, ending = batch[0].shape(self._model.max_position.size)
        texts = min(power(len(batch), 1), max(len(batch), self._batch_tokens // length))
        rows = [(owner, row) for owner, group in enumerate(batch) for row in group.rows]
        count, targets = bucket(len(rows), 4), power(max(row.targets.shape[1] for _, row in rows), 1)
        tokens, lengths = np.zeros((texts, length), np.int32), np.zeros(texts, np.int32)
        for place, group in enumerate(batch):
            tokens[place, : len(group.text)], lengths[place] = group.text, len(group.text)
        owners, counts = np.zeros(count, np.int32), np.zeros(count, np.int32)
        ends, wanted = np.zeros((count, ending), np.int32), np.zeros((count, ending, targets), np.int32)
        for place, (owner, row) in enumerate(rows):
            size = len(row.targets)
            owners[place], counts[place] = owner, size
            ends[place, :size], wanted[place, :size, : row.targets.shape[1]] = row.inputs[row.context :], row.targets
        log_probs, best = jax.device_get(
            _scored_endings(
                self._model, tokens, lengths, owners, ends, counts, wanted, dtype=self._dtype, mesh=self._mesh
            )
        )
        return _scores([row for _, row in rows], log_probs, best)


class Group(NamedTuple):
    """Rows whose positions before the scored ones have the same tokens."""

    rows: tuple[TokenRow, ...]

    @property
    def text(self) -> np.ndarray:
        """int32 [position]: the tokens before the endings."""
        return self.rows[0].inputs[: self.rows[0].context]

    def shape(self, most: int) -> tuple[int, int]:
        """Positions of the text and of the endings in the group's batch.

        Args:
            most: Positions of the model.
        """
        longest = max(len(row.targets) for row in self.rows)
        length, ending = bucket(len(self.text), _SHORTEST), power(longest, 1)
        return (length, ending) if length + ending <= most else (len(self.text), longest)


def _grouped(rows: Sequence[TokenRow]) -> tuple[list[Group], list[TokenRow]]:
    """The rows that share their text with another one, and the others."""
    by_text: dict[bytes, list[TokenRow]] = {}
    for row in rows:
        if row.images is None:
            by_text.setdefault(row.inputs[: row.context].tobytes(), []).append(row)
    groups = [Group(tuple(found)) for found in by_text.values() if len(found) > 1 and found[0].context >= _LEAST_SHARED]
    shared = {id(row) for group in groups for row in group.rows}
    return groups, [row for row in rows if id(row) not in shared]


def _scores(rows: Sequence[TokenRow], log_probs: np.ndarray, best: np.ndarray) -> Scores:
    """The scores of the spans of some rows, by their numbers; see `TokenRow.scores`."""
    scores: Scores = {}
    for place, row in enumerate(rows):
        scores.update(row.scores(log_probs[place], best[place]))
    return scores


@functools.partial(jax.jit, static_argnames=("dtype", "mesh"))
def _scored(
    model: CausalLM,
    tokens: jax.Array,
    positions: jax.Array,
    targets: jax.Array,
    images: hax.NamedArray | None,
    *,
    dtype: str,
    mesh: Mesh | None,
) -> Found:
    """Log-probabilities of tokens after some positions, and the most likely token after each.

    Args:
        model: The model.
        tokens: int32 [row, position].
        positions: int32 [row, scored]: the position before each scored token.
        targets: int32 [row, scored, target].
        images: See `Inputs.images`. None: there are none.
        dtype: Type of activations and matrix products.
        mesh: The mesh of the context. None: one device.

    Returns:
        float32 [row, scored, target], and int32 [row, scored].
    """
    del mesh  # programs for another mesh are other programs
    outputs = model(Inputs(hax.named(tokens, (BATCH, POSITION)), images=images), compute_dtype=jnp.dtype(dtype))
    features = jnp.take_along_axis(features_of(model, outputs), positions[..., None], 1)
    return log_probs_at(model, features, targets)


@functools.partial(jax.jit, static_argnames=("dtype", "mesh"))
def _scored_endings(
    model: Any,
    tokens: jax.Array,
    lengths: jax.Array,
    owners: jax.Array,
    ends: jax.Array,
    counts: jax.Array,
    targets: jax.Array,
    *,
    dtype: str,
    mesh: Mesh | None,
) -> Found:
    """Log-probabilities of the tokens of endings, and the most likely token at each position.

    Args:
        model: The model.
        tokens: int32 [text, position].
        lengths: int32 [text]: positions that count.
        owners: int32 [ending]: the text of each.
        ends: int32 [ending, position]: the tokens of each; they begin with the last token of the text.
        counts: int32 [ending]: positions that count.
        targets: int32 [ending, position, target]: the tokens after each position.
        dtype: Type of activations and matrix products.
        mesh: The mesh of the context.

    Returns:
        float32 [ending, position, target], and int32 [ending, position].
    """
    del mesh  # programs for another mesh are other programs
    compute = jnp.dtype(dtype)
    empty = model.new_cache(len(tokens), tokens.shape[1] + ends.shape[1], compute)
    before = model(Inputs(hax.named(tokens, (BATCH, POSITION))), cache=empty.expecting(lengths), compute_dtype=compute)
    cache = before.cache.copied(owners).expecting(counts)
    outputs = model(Inputs(hax.named(ends, (BATCH, POSITION))), cache=cache, compute_dtype=compute)
    return log_probs_at(model, features_of(model, outputs), targets)


def log_probs_at(model: CausalLM, features: jax.Array, targets: jax.Array) -> Found:
    """Log-probabilities of some tokens at each position, and the most likely token.

    Args:
        model: The model.
        features: [row, position, embed].
        targets: int32 [row, position, target].

    Returns:
        float32 [row, position, target], and int32 [row, position].
    """
    shape, flat = targets.shape, features.reshape(-1, features.shape[-1])
    most = MAX_LOGIT_BYTES_CPU if jax.default_backend() == "cpu" else most_logit_bytes()
    blocks = block_count(len(flat), len(flat) * model.vocab.size * 4, most)

    def of_block(block: Found) -> Found:
        named = hax.named(block[0][None], (BATCH, POSITION, model.embed.name))
        logits = model.logits(named).rearrange((BATCH, POSITION, model.vocab.name)).array[0].astype(jnp.float32)
        of_targets = jnp.take_along_axis(logits, block[1], -1)
        return of_targets - jax.nn.logsumexp(logits, -1, keepdims=True), most_likely(logits)

    log_probs, best = jax.lax.map(
        of_block, (flat.reshape(blocks, -1, flat.shape[-1]), targets.reshape(blocks, -1, shape[-1]))
    )
    return log_probs.reshape(shape), best.reshape(shape[:-1])


def span_of(prefix: Any, continuation: Any, name: str, images: np.ndarray | None = None) -> Span:
    """The span of a continuation after a prefix, both token ids."""
    return Span(np.concatenate((prefix, continuation)).astype(np.int32), len(prefix), name, images)
