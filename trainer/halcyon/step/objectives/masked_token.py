"""Masked tokens: the cross entropy of tokens that an encoder does not see (Devlin et al. 2019, section 3.1).

A share of the tokens is hidden. Of these, 80 % become the mask token, 10 % a random token, and 10 % stay, so that the
model must know each token from its neighbours. Special tokens and padding are never hidden.

In a training step, whether a token is hidden is a pure function of the number of its row (`ROW_SEEDS`: the run's seed,
the step, and the row of the batch) and of its position. In an evaluation it is one of the tokens of its document, as
far as the row has them, and of its place in them: so every evaluation hides the same tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from halcyon.host.errors import BadConfiguration
from halcyon.models.model import CausalLM, Inputs
from halcyon.step.objectives.next_token import next_token_sums
from halcyon.step.objectives.objective import ROW_SEEDS, Batch, Common, Sums, named, typed
from halcyon.tokenizer import Tokenizer, named_specials
from halcyon_api.objectives import NO_MASK

_SITE = 0x3A5C
"""The number of masks among what is random in a row."""
_MASKED, _RANDOM = 0.8, 0.1
"""Shares of the hidden tokens that become the mask token, and a random one."""


class MaskIds(NamedTuple):
    """The ids that a tokenizer gives to masking."""

    mask: int
    """The token in the place of a hidden one."""
    special: tuple[int, ...]
    """Tokens that are never hidden."""
    tokens: int
    """Tokens of the vocabulary."""

    @staticmethod
    def of(tokenizer: Tokenizer) -> MaskIds:
        """The ids of a tokenizer.

        Raises:
            BadConfiguration: It has no mask token.
        """
        special, mask = tokenizer.special_tokens, named_specials(tokenizer).get("mask_token")
        if mask is None:
            raise BadConfiguration(f"spec.objective.maskedToken: {NO_MASK}")
        never = {*special.values(), tokenizer.eos_id, tokenizer.pad_id}
        return MaskIds(special[mask], tuple(sorted(never)), tokenizer.vocab_size)


@dataclass(frozen=True)
class MaskedToken(Common):
    """Cross entropy of hidden tokens.

    Attributes:
        share: Share of the tokens that are hidden.
        ids: The tokenizer's ids.
    """

    share: float
    ids: MaskIds
    fields = typed("tokens", "segments", "weights")
    """See `halcyon.step.objectives.objective.Objective`."""
    per_token = False
    """See `halcyon.step.objectives.objective.Objective`: a hidden token's nats are no measure of all tokens."""

    def __call__(self, model: CausalLM, batch: Batch, frozen: Any, key: jax.Array | None) -> Sums:
        """See `halcyon.step.objectives.objective.Objective`."""
        del frozen, key
        seen, hidden = self.hide(batch)
        arrays = named({**batch, "seen": seen, "hidden": hidden}, ("tokens", "segments", "seen", "hidden"))
        model = self.dropping(model, batch)
        inputs = Inputs(arrays["seen"], segments=arrays["segments"])
        return next_token_sums(model, inputs, arrays["tokens"], arrays["hidden"], compute_dtype=self.compute_dtype)

    def hide(self, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """What the model sees of the tokens: int32 [batch, position], and 1 at each hidden token: float32."""
        tokens, ids = batch["tokens"], self.ids
        drawn = jax.vmap(jax.vmap(_bits))(*_places(batch))
        filled = jnp.any(batch["weights"] > 0, axis=1, keepdims=True)  # not a row that only fills the batch
        ordinary = filled & ~jnp.isin(tokens, jnp.asarray(ids.special))
        hidden = ordinary & (_uniform(drawn[..., 0]) < self.share)
        kind, other = _uniform(drawn[..., 1]), (drawn[..., 2] % ids.tokens).astype(tokens.dtype)
        replaced = jnp.where(kind < _MASKED, ids.mask, jnp.where(kind < _MASKED + _RANDOM, other, tokens))
        return jnp.where(hidden, replaced, tokens), hidden.astype(jnp.float32)


def _places(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Two numbers of each token that decide its draws: uint32 [batch, position] each."""
    tokens, segments = batch["tokens"], batch["segments"]
    position = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.uint32), tokens.shape)
    if ROW_SEEDS in batch:
        of_row = jax.vmap(lambda seed: _bits(seed, _SITE)[0])(batch[ROW_SEEDS])
        return jnp.broadcast_to(of_row[:, None], tokens.shape), position
    begins = jnp.diff(segments, axis=1, prepend=segments[:, :1] - 1) != 0
    place = position - jax.lax.cummax(jnp.where(begins, position, 0), axis=1)
    each = jax.vmap(jax.vmap(_bits))(tokens.astype(jnp.uint32), place)[..., 0]

    def of_documents(each: jax.Array, begins: jax.Array) -> jax.Array:
        numbers = jnp.cumsum(begins)
        return jax.ops.segment_sum(each, numbers, len(each) + 1)[numbers]

    return jax.vmap(of_documents)(each, begins), place


def _bits(number: jax.Array, place: jax.Array | int) -> jax.Array:
    """Three random numbers of two: uint32 [3]."""
    return jax.random.bits(jax.random.fold_in(jax.random.key(number), place), (3,), jnp.uint32)


def _uniform(bits: jax.Array) -> jax.Array:
    """Numbers from 0 to 1, 1 excluded: float32."""
    return (bits >> 8).astype(jnp.float32) / (1 << 24)
