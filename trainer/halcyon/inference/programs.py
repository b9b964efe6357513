"""The compiled programs of an engine: tokens of a prompt into one slot, and some tokens for all slots.

The logits after the last token of each slot are kept. So a step first chooses a token from them and then computes the
model, and the choice of the first token needs no program of its own.

One call computes several steps, because a call of a small model costs as much as a step. The number of steps is an
argument, so a text has the same bits however its steps are divided among calls. A slot stops by itself at its last
token.

A call gets the arrays of the model as a flat tuple: the tree of a model has a Python object for each part, and JAX
would walk it in each call.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import haliax as hax
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from halcyon.inference.sampling import Controls, next_tokens
from halcyon.models import CausalLM, Inputs
from halcyon.models.axes import BATCH, BESIDE, POSITION
from halcyon.models.cache import Cache, Group
from halcyon.models.softmax import block_count, most_logit_bytes
from halcyon.parallel.device_mesh import mesh_of

MOST_STEPS = 16
"""Steps of the longest call."""
MOST_ENDS = 8
"""Tokens of each slot that end a text on the device.

With further ones the text goes on until the end of the call, and is cut.
"""


class Recent(NamedTuple):
    """The last positions of each slot that are computed, twice as many as the model has layers for further tokens: then
    each position is computed once more when all its tokens are known."""

    features: jax.Array
    """[slot, position, embed]: the features of the model."""
    tokens: jax.Array
    """int32 [slot, position]."""

    def moved(self, features: jax.Array, tokens: jax.Array, counts: jax.Array) -> "Recent":
        """With the first `counts` [slot] of further positions behind."""
        at = counts[:, None] + jnp.arange(self.tokens.shape[1])
        joined = jnp.concatenate((self.features, features.astype(self.features.dtype)), 1)
        tokens = jnp.concatenate((self.tokens, tokens), 1)
        return Recent(jnp.take_along_axis(joined, at[..., None], 1), jnp.take_along_axis(tokens, at, 1))


class State(NamedTuple):
    """What an engine keeps on the device."""

    cache: Cache
    logits: jax.Array
    """float32 [slot, token]: of the next token."""
    prompted: jax.Array
    """bool [slot, token]: tokens of the prompt."""
    written: jax.Array
    """int32 [slot, token]: how often each token is in the text."""
    recent: Recent | None = None
    """None: the model proposes no tokens."""


class Chosen(NamedTuple):
    """The tokens of some steps."""

    tokens: jax.Array
    """int32 [step, slot]."""
    log_probs: jax.Array
    """float32 [step, slot]: the logarithm of the model's probability, before temperature, filters and penalties."""
    top_tokens: jax.Array
    """int32 [step, slot, alternative]: the most likely tokens."""
    top_log_probs: jax.Array
    """float32 [step, slot, alternative]."""


class PromptLogs(NamedTuple):
    """What the model expected at some tokens of a prompt."""

    log_probs: Any
    """float32 [token]: the logarithm of the probability of each."""
    top_tokens: Any
    """int32 [token, alternative]: the most likely tokens in its place."""
    top_log_probs: Any
    """float32 [token, alternative]."""


class Plan(NamedTuple):
    """What a call computes, besides the settings of the slots."""

    active: jax.Array
    """bool [slot]: slots whose prompt is computed."""
    left: jax.Array
    """int32 [slot]: tokens until the greatest length of the text."""
    ends: jax.Array
    """int32 [slot, end]: tokens that end the text; -1: none."""
    allowed: jax.Array
    """int32 [slot, word]: a bit for each token that may be chosen, the lowest bit of a word first."""
    is_bound: jax.Array
    """bool: whether a bit of `allowed` is 0."""
    wants_alternatives: jax.Array
    """bool: whether a slot reports alternatives."""
    steps: jax.Array
    """int32: most steps of the call, at most `MOST_STEPS`."""
    until_end: jax.Array
    """bool: whether the call ends with the first text that ends, because a request waits for its slot."""
    shift: jax.Array | None = None
    """int32 [slot]: see `Cache`."""


class Fixed(NamedTuple):
    """What decides the programs besides the shapes."""

    dtype: str
    """Type of activations and matrix products."""
    tokens: int
    """Tokens that may be chosen are those with an id below this."""
    alternatives: int
    """Most likely tokens that each step reports."""
    further: int = 0
    """Tokens that the model proposes in a step."""


Decoded = tuple[State, Chosen, jax.Array]
"""See `_decode`."""


class Programs(NamedTuple):
    """The programs for models of one structure.

    Each takes the arrays of the model and the state, whose memory it uses again.
    """

    prefill: Callable[..., tuple[State, PromptLogs]]
    """See `_prefill`."""
    decode: Callable[..., Decoded]
    """See `_decode`."""
    see: Callable[..., jax.Array]
    """From the arrays of the model and the pixels of an image, uint8 [row, column, colour]: what stands at its tokens,
    [token, embed]."""


def empty(model: Any, fixed: Fixed, slots: int, length: int, pages: int) -> State:
    """The state without a request; see `Cache.of`."""
    vocabulary = model.vocab.size

    def made() -> State:
        cache = model.new_cache(slots, length, fixed.dtype, pages=pages)
        last, recent = (slots, 2 * fixed.further), None
        if fixed.further:
            features = jnp.zeros((*last, model.embed.size), jnp.dtype(fixed.dtype))
            recent = Recent(features, jnp.zeros(last, jnp.int32))
        logits, prompted, written = (jnp.zeros((slots, vocabulary), kind) for kind in (jnp.float32, bool, jnp.int32))
        return State(cache, logits, prompted, written, recent)

    return made() if mesh_of(model) is None else jax.jit(made)()  # a program, so that each device makes its part only


@functools.lru_cache(maxsize=256)
def programs_of(structure: Any, fixed: Fixed, mesh: Mesh | None = None) -> Programs:
    """The programs of all engines with models of one structure.

    Args:
        structure: The tree of the model, as ``jax.tree.structure`` returns it.
        fixed: What decides the programs.
        mesh: The mesh of the context in which the programs are called. None: one device.
    """
    del mesh  # programs for another mesh are other programs

    def prefill(arrays: Any, *arguments: Any) -> tuple[State, PromptLogs]:
        return _prefill(jax.tree.unflatten(structure, arrays), *arguments, fixed=fixed)

    def decode(arrays: Any, *arguments: Any) -> Decoded:
        return _decode(jax.tree.unflatten(structure, arrays), *arguments, fixed=fixed)

    def see(arrays: Any, pixels: jax.Array) -> jax.Array:
        encoder = jax.tree.unflatten(structure, arrays).encoder
        return encoder(hax.named(pixels[None, None], BESIDE["images"]), jnp.dtype(fixed.dtype)).array[0]

    return Programs(jax.jit(prefill, donate_argnums=1), jax.jit(decode, donate_argnums=1), jax.jit(see))


def _prefill(
    model: CausalLM,
    state: State,
    slot: jax.Array,
    tokens: jax.Array,
    count: jax.Array,
    begins: jax.Array,
    start: jax.Array,
    pages: jax.Array,
    targets: jax.Array,
    wants_logs: jax.Array,
    seen: jax.Array | None = None,
    shift: jax.Array | None = None,
    *,
    fixed: Fixed,
) -> tuple[State, PromptLogs]:
    """Compute the next tokens of a prompt.

    Args:
        model: The model.
        state: The state.
        slot: int32: the slot of the request.
        tokens: int32 [position]; those from `count` on are padding.
        count: int32: tokens that count.
        begins: bool: whether these are the first tokens of the prompt.
        start: int32: tokens of the prompt before these, which are in the pages already.
        pages: int32 [page]: the pages of the slot.
        targets: int32 [position]: the token after each position; with layers for further tokens, so many more that each
            has one.
        wants_logs: bool: whether the logs of the targets are computed; else they are 0.
        seen: What stands at the tokens of images: [position, embed]. None: there are none.
        shift: int32 [1]: see `Cache`.
        fixed: What decides the program.

    Returns:
        The state, and the logs of the targets; without a target if the engine reports no alternatives.
    """
    cache = dataclasses.replace(state.cache, table=state.cache.table.at[slot].set(pages))
    row = dataclasses.replace(cache.row(slot, begins), lengths=start[None])
    outputs = called(
        model, tokens[None], row.expecting(count[None], shift=shift), fixed, None if seen is None else seen[None]
    )
    features = features_of(model, outputs)
    last = jax.lax.dynamic_slice_in_dim(features, count - 1, 1, 1)
    logits = logits_of(model, hax.named(last, (BATCH, POSITION, model.embed.name)))[0]
    counted = jnp.where(jnp.arange(tokens.shape[0]) < count, tokens, state.prompted.shape[1])
    prompted = (state.prompted[slot] & ~begins).at[counted].set(True, mode="drop")
    computed, recent = outputs.cache, state.recent
    if recent is not None:
        computed = _proposed(model, outputs, dataclasses.replace(computed, lengths=row.lengths), count, targets, fixed)
        computed = dataclasses.replace(computed, lengths=outputs.cache.lengths, counts=None)
        mine = Recent(*(x[slot][None] for x in recent)).moved(features, tokens[None], count[None])
        recent = Recent(*(x.at[slot].set(new[0]) for x, new in zip(recent, mine, strict=True)))
        targets = targets[: len(tokens)]
    following = State(
        cache.with_row(slot, computed),
        state.logits.at[slot].set(logits),
        state.prompted.at[slot].set(prompted),
        state.written.at[slot].set(0),
        recent,
    )
    shape = len(targets) if fixed.alternatives else 0, fixed.alternatives
    none = PromptLogs(jnp.zeros(shape[:1]), jnp.zeros(shape, jnp.int32), jnp.zeros(shape))
    if not fixed.alternatives:
        return following, none
    logged = functools.partial(_logged, model, fixed=fixed)
    return following, jax.lax.cond(wants_logs, logged, lambda *_: none, features[0], targets)


def _proposed(model: Any, outputs: Any, cache: Cache, count: jax.Array, following: jax.Array, fixed: Fixed) -> Cache:
    """The cache of a row with what the layers for further tokens keep of some positions.

    Args:
        model: The model.
        outputs: Its outputs at these positions.
        cache: The cache, with the length before them.
        count: int32: positions that count.
        following: int32 [position]: the tokens from the one after the first position on.
        fixed: What decides the program.
    """
    x, cache = outputs.features, cache.expecting(count[None])
    size = x.resolve_axis(POSITION).size
    for number in range(fixed.further):
        tokens = hax.named(following[None, number : number + size], (BATCH, POSITION))
        x, found = model.propose(number, x, tokens, cache, jnp.dtype(fixed.dtype))
        cache = found.cache
    return cache


def _logged(model: CausalLM, features: jax.Array, targets: jax.Array, *, fixed: Fixed) -> PromptLogs:
    """The logs of the token after each position, in blocks, because logits of all positions may be large.

    Args:
        model: The model.
        features: [position, embed].
        targets: int32 [position].
        fixed: What decides the program.
    """

    def of_block(block: tuple[jax.Array, jax.Array]) -> PromptLogs:
        named = hax.named(block[0][:, None], (BATCH, POSITION, model.embed.name))
        logits = logits_of(model, named)
        totals = jax.nn.logsumexp(logits, -1, keepdims=True)
        top, tokens = jax.lax.top_k(known_of(logits, fixed), fixed.alternatives)
        of_targets = jnp.take_along_axis(logits, block[1][:, None], -1) - totals
        return PromptLogs(of_targets[:, 0], tokens.astype(jnp.int32), top - totals)

    count = len(targets)
    blocks = block_count(count, count * model.vocab.size * 4, most_logit_bytes())
    logs = jax.lax.map(of_block, (features.reshape(blocks, -1, features.shape[-1]), targets.reshape(blocks, -1)))
    return PromptLogs(*(x.reshape(count, *x.shape[2:]) for x in logs))


@functools.partial(jax.jit, donate_argnames="state")
def mark(state: State, slot: jax.Array, tokens: jax.Array, count: jax.Array) -> State:
    """Set the tokens of a slot's prompt to those of a beginning whose pages were found.

    Args:
        state: The state; its memory is used again.
        slot: int32: the slot of the request.
        tokens: int32 [position]; those from `count` on are padding.
        count: int32: tokens that count.
    """
    counted = jnp.where(jnp.arange(tokens.shape[0]) < count, tokens, state.prompted.shape[1])
    prompted = jnp.zeros_like(state.prompted[0]).at[counted].set(True, mode="drop")
    return state._replace(prompted=state.prompted.at[slot].set(prompted))


@functools.partial(jax.jit, donate_argnames="state")
def copy(state: State, slot: jax.Array, to: jax.Array, pages: jax.Array, new: jax.Array) -> State:
    """Give a slot everything that another one has after its prompt.

    Args:
        state: The state; its memory is used again.
        slot: int32: the slot that has it.
        to: int32: the slot that gets it.
        pages: int32 [page]: the pages of the first slot.
        new: int32 [page]: those of the other one.
    """
    cache = state.cache

    def of_group(group: Group) -> Group:
        if group.paged:
            arrays = tuple(x.at[:, new].set(x.at[:, pages].get(mode="clip"), mode="drop") for x in group.arrays)
        else:
            arrays = tuple(x.at[:, to].set(x[:, slot]) for x in group.arrays)
        return dataclasses.replace(group, arrays=arrays)

    copied = dataclasses.replace(
        cache,
        groups={name: of_group(group) for name, group in cache.groups.items()},
        lengths=cache.lengths.at[to].set(cache.lengths[slot]),
        table=cache.table.at[to].set(new),
    )
    return State(copied, *jax.tree.map(lambda x: x.at[to].set(x[slot]), tuple(state[1:])))


def _decode(model: CausalLM, state: State, controls: Controls, plan: Plan, *, fixed: Fixed) -> Decoded:
    """Choose a token in each active slot, and compute it; again for each step.

    The masks of grammars are an argument of every call, so a request has the same program whether or not another one
    has a grammar.

    If the model has layers for further tokens, they propose the tokens after the one that is chosen, and a pass of the
    model computes them all (Leviathan et al. 2022, `arXiv 2211.17192 <https://arxiv.org/abs/2211.17192>`_). Each token
    is chosen from the logits of the model, with the random numbers of its place in the text, as without proposals; a
    proposal is taken if it is the token that is chosen there. So a text has the same tokens as without proposals,
    whatever they are, and the same distribution (Daliri et al. 2024, `arXiv 2408.07978
    <https://arxiv.org/abs/2408.07978>`_: proposals are chosen with the same random numbers, so most agree). The rule of
    Leviathan et al. would make the tokens depend on the proposals.

    Args:
        model: The model.
        state: The state.
        controls: The settings of each slot, at its first step.
        plan: What to compute.
        fixed: What decides the program.

    Returns:
        The state; the tokens of each slot, one behind the other, -1 behind the last; and two numbers: the steps, and
        their sum over the slots that were active.
    """
    slots, most = len(plan.active), fixed.further
    rows, room = jnp.arange(slots), MOST_STEPS * (1 + most)
    shape = room, slots
    none = Chosen(
        jnp.full(shape, -1, jnp.int32),
        jnp.zeros(shape, jnp.float32),
        jnp.zeros((*shape, fixed.alternatives), jnp.int32),
        jnp.zeros((*shape, fixed.alternatives), jnp.float32),
    )
    windows = (group.entries and most == 1 for group in state.cache.groups.values() if not group.paged)
    is_shortened = not most or all(windows)  # the entries of tokens that are not taken do no harm

    def goes_on(carry: Any) -> jax.Array:
        numbers, _, active, _, _ = carry
        has_ended = jnp.any(plan.active & ~active)
        return (numbers[0] < plan.steps) & jnp.any(active) & ~(plan.until_end & has_ended)

    def step(carry: Any) -> Any:
        numbers, counts, active, state, taken = carry
        at_first = controls._replace(number=controls.number + counts)
        chosen = _chosen(state, at_first, active, plan, fixed)
        cache, tokens = state.cache, chosen.tokens[:, None]
        if most:
            cache, tokens = _drafted(model, state, at_first, chosen.tokens, active, fixed)
        sizes = jnp.where(active, jnp.minimum(plan.left - counts, 1 + most), 0)
        outputs = called(model, tokens, cache.expecting(sizes, shift=plan.shift), fixed)
        all_logits = model.logits(outputs.features).rearrange((BATCH, POSITION, model.vocab.name)).array
        logits, written, done, on, still = state.logits, state.written, jnp.zeros_like(counts), active, active
        for number in range(1 + most):
            if number:
                now = state._replace(logits=logits, written=written)
                chosen = _chosen(now, controls._replace(number=controls.number + counts), on, plan, fixed)
                on &= (chosen.tokens == tokens[:, number]) & ~plan.is_bound
            at = jnp.where(on, counts, room)
            taken = Chosen(
                *(whole.at[at, rows].set(one, mode="drop") for whole, one in zip(taken, chosen, strict=True))
            )
            logits = jnp.where(on[:, None], all_logits[:, number].astype(jnp.float32), logits)
            written = written.at[rows, tokens[:, number]].add(on.astype(jnp.int32))
            counts, done = counts + on, done + on
            ended = jnp.any(tokens[:, number : number + 1] == plan.ends, -1) | (counts >= plan.left)
            still, on = still & ~(on & ended), on & ~ended
        groups = outputs.cache.groups
        if not is_shortened:
            again = lambda: called(model, tokens, cache.expecting(done, shift=plan.shift), fixed).cache.groups  # noqa: E731
            groups = jax.lax.cond(jnp.all(done == sizes), lambda: groups, again)
        following = dataclasses.replace(outputs.cache, groups=groups, lengths=state.cache.lengths + done)
        recent = None if state.recent is None else state.recent.moved(features_of(model, outputs), tokens, done)
        numbers += jnp.stack((jnp.int32(1), jnp.sum(active, dtype=jnp.int32)))
        return numbers, counts, still, State(following, logits, state.prompted, written, recent), taken

    begin = jnp.zeros(2, jnp.int32), jnp.zeros(slots, jnp.int32), plan.active, state, none
    numbers, _, _, state, taken = jax.lax.while_loop(goes_on, step, begin)
    return state, taken, numbers


def _drafted(
    model: Any, state: State, controls: Controls, first: jax.Array, active: jax.Array, fixed: Fixed
) -> tuple[Cache, jax.Array]:
    """The cache with what the layers for further tokens keep, and the token of each slot with the proposals after it:
    int32 [slot, 1 + proposal].
    """
    recent: Any = state.recent
    width, lengths = recent.tokens.shape[1], state.cache.lengths
    counts = jnp.minimum(lengths, width)
    at = jnp.minimum(jnp.arange(width) + (width - counts)[:, None], width - 1)
    cache = dataclasses.replace(state.cache, lengths=lengths - counts, counts=jnp.where(active, counts, 0))
    names = (BATCH, POSITION, model.embed.name)
    x = hax.named(jnp.take_along_axis(recent.features, at[..., None], 1), names)
    known = jnp.concatenate((recent.tokens[:, 1:], first[:, None]), 1)
    for number in range(fixed.further):
        tokens = jnp.take_along_axis(known[:, number:], at, 1)
        x, outputs = model.propose(number, x, hax.named(tokens, (BATCH, POSITION)), cache, jnp.dtype(fixed.dtype))
        cache = outputs.cache
        last = jnp.take_along_axis(features_of(model, outputs), jnp.maximum(counts - 1, 0)[:, None, None], 1)
        logits = known_of(logits_of(model, hax.named(last, names)), fixed)
        of_token = controls._replace(number=controls.number + number + 1)
        draft = next_tokens(logits, state.prompted, state.written, of_token)
        known = jnp.concatenate((known, draft[:, None]), 1)
    return dataclasses.replace(cache, lengths=lengths, counts=None), known[:, width - 1 :]


def _chosen(state: State, controls: Controls, active: jax.Array, plan: Plan, fixed: Fixed) -> Chosen:
    """The tokens of one step; without the dimension of steps."""

    def bound(logits: jax.Array, allowed: jax.Array) -> jax.Array:
        bits = (allowed[:, :, None] >> jnp.arange(32, dtype=jnp.int32)) & 1
        return jnp.where(bits.reshape(len(allowed), -1)[:, : logits.shape[1]] == 1, logits, -jnp.inf)

    def most_likely(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
        top, tokens = jax.lax.top_k(logits, fixed.alternatives)
        return tokens.astype(jnp.int32), top

    known = known_of(state.logits, fixed)
    permitted = jax.lax.cond(plan.is_bound, bound, lambda logits, _: logits, known, plan.allowed)
    tokens = jnp.where(active, next_tokens(permitted, state.prompted, state.written, controls), 0)
    totals = jax.nn.logsumexp(state.logits, -1)
    log_probs = jnp.take_along_axis(state.logits, tokens[:, None], -1)[:, 0] - totals
    shape = (len(tokens), fixed.alternatives)
    none = jnp.zeros(shape, jnp.int32), jnp.zeros(shape, jnp.float32)
    others, top = jax.lax.cond(plan.wants_alternatives, most_likely, lambda _: none, known)
    return Chosen(tokens, log_probs, others, top - totals[:, None])


def called(model: Any, tokens: jax.Array, cache: Cache, fixed: Fixed, seen: jax.Array | None = None) -> Any:
    """The outputs of the model for the next tokens of each row: int32 [row, position].

    Args:
        model: The model.
        tokens: The tokens.
        cache: The cache before them.
        fixed: What decides the program.
        seen: See `Inputs.seen`; images are in one call whole.
    """
    inputs = Inputs(hax.named(tokens, (BATCH, POSITION)))
    if seen is not None:
        inputs = inputs._replace(seen=hax.named(seen, (BATCH, POSITION, model.embed.name)))
        cache = dataclasses.replace(cache, until=model.image_ends(inputs.tokens))
    return model(inputs, cache=cache, compute_dtype=jnp.dtype(fixed.dtype))


def features_of(model: CausalLM, outputs: Any) -> jax.Array:
    """The features of a model's outputs: [row, position, embed]."""
    return outputs.features.rearrange((BATCH, POSITION, model.embed.name)).array


def logits_of(model: CausalLM, features: Any) -> jax.Array:
    """float32 [row, token], from features of one position."""
    return model.logits(features).rearrange((BATCH, POSITION, model.vocab.name)).array[:, 0].astype(jnp.float32)


def known_of(logits: jax.Array, fixed: Fixed) -> jax.Array:
    """`logits` [row, token], with -inf for the tokens that are never chosen."""
    if fixed.tokens == logits.shape[-1]:
        return logits
    return jnp.where(jnp.arange(logits.shape[-1]) < fixed.tokens, logits, -jnp.inf)
