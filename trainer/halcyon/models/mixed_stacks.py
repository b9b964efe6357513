"""Computes blocks of several forms in one order, where each form is a stack of its own.

`Stack.scan_kinds` computes blocks with parameters of one form. Here a block's kind also says of which stack it is the
next block, as in a decoder in which some layers have experts. One scan repeats each run of a repeated pattern (see
`halcyon.models.stack.runs_of`).
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from halcyon.models.partition import unroll
from halcyon.models.remat import Loop, checkpointed, scan
from halcyon.models.stack import Run, Stack, runs_of
from halcyon.models.statistics import tapped


def scan_stacks(
    stacks: Mapping[Any, Stack[Any]],
    kinds: Sequence[tuple[Any, Any]],
    step: Callable[[Any, Any, Any], tuple[Any, Any]],
    carry: Any,
    *,
    after: Sequence[Any] = (),
) -> tuple[Any, Any]:
    """Compute ``carry, output = step(kind, block, carry)`` for each block in order.

    Args:
        stacks: The stack of each form.
        kinds: The form and the kind of each block.
        step: Computes one block. Its output is a tree of arrays, or None for blocks without an output.
        carry: A tree of arrays that goes from block to block.
        after: The forms of the blocks of these stacks that an earlier call computed.

    Returns:
        The last carry, and the outputs of all blocks that have one, in order: a dimension without a name in front.
    """
    used, outputs = {form: list(after).count(form) for form in stacks}, []
    if all(stack.apart for stack in stacks.values()):
        for form, kind in kinds:
            carry, output = step(kind, stacks[form].block(used[form]), carry)
            used[form] += 1
            if output is not None:
                outputs.append(output)
        return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *outputs) if outputs else None
    blocks = {form: stack.blocks for form, stack in stacks.items()}
    for run in runs_of(kinds):
        mine: dict[Any, Any] = {}
        for form in dict.fromkeys(form for form, _ in run.pattern):  # a set of texts has another order in each process
            each = sum(form == other for other, _ in run.pattern)
            part = slice(used[form], used[form] + each * run.repetitions)
            used[form] = part.stop
            shape = (run.repetitions, each)
            mine[form] = jax.tree.map(
                lambda x, part=part, shape=shape: x[part].reshape(*shape, *x.shape[1:]), blocks[form]
            )
        used_here = next(stacks[form] for form in mine)  # all stacks of a model have the same policy
        loop = Loop(used_here.remat, run.repetitions, len(run.pattern), used_here.unroll, unroll(run.repetitions))
        carry, found = _scan_run(run, mine, loop, step, carry)
        outputs += found
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs) if outputs else None


def _scan_run(
    run: Run, blocks: Any, loop: Loop, step: Callable[[Any, Any, Any], tuple[Any, Any]], carry: Any
) -> tuple[Any, list[Any]]:
    """The last carry, and the outputs of a run, if any."""
    merges = loop.merges or run.repetitions == 1
    steps = [
        (form, checkpointed(functools.partial(step, kind), loop.policy, prevent_cse=merges))
        for form, kind in run.pattern
    ]

    def body(carry: Any, mine: Any) -> tuple[Any, Any]:
        used, found = dict.fromkeys(mine, 0), []
        for form, compute in steps:
            at = used[form]
            block, slot = jax.tree.map(lambda x, at=at: x[at], mine[form])
            carry, output = compute(block, carry)
            carry = tapped(carry, slot)
            used[form] += 1
            if output is not None:
                found.append(output)
        return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *found) if found else None

    carry, outputs = scan(body, carry, blocks, loop)
    if outputs is None:
        return carry, []
    return carry, [jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), outputs)]
