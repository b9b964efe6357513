"""Remat policies: what the forward pass of a stack keeps for the backward pass, which computes the rest again (Chen et
al. 2016).

`halcyon_api.spec.trainer.REMAT` says what each policy keeps. The policies change no formula. XLA may fuse the
operations of a recomputed block in another way, so after an edit of the policy later losses may differ in their last
digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name

from halcyon_api.spec.trainer import Remat

Tree = TypeVar("Tree")

ATTENTION = "attention"
"""Name of what `attended` marks."""
_CARRY = "carry"
_WEIGHT_PRODUCTS = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
_POLICIES: dict[Remat, Callable[..., Any] | None] = {
    "full": None,
    "nested": None,
    "attention": jax.checkpoint_policies.save_only_these_names(ATTENTION),
    "dots": jax.checkpoint_policies.save_from_both_policies(
        _WEIGHT_PRODUCTS, jax.checkpoint_policies.save_only_these_names(ATTENTION)
    ),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=[_CARRY],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}
"""JAX's policy of each remat policy that computes something again; None: nothing but a block's arguments is kept."""


def attended(tree: Tree) -> Tree:
    """Mark the result of attention, and what its backward pass needs of it, for the policies that keep it.

    The values do not change.
    """
    return jax.tree.map(lambda x: checkpoint_name(x, ATTENTION), tree)


def checkpointed(step: Callable[..., Any], policy: Remat, *, prevent_cse: bool) -> Callable[..., Any]:
    """``step(block, carry, ...)`` with a remat policy.

    Args:
        step: Computes one block.
        policy: The remat policy. ``auto`` counts as ``none``: a run replaces it before its model is built.
        prevent_cse: Whether XLA could merge the recomputation with the forward pass. It cannot if both are loops.
    """
    if policy not in _POLICIES:
        return step
    if policy != "offload":
        return jax.checkpoint(step, policy=_POLICIES[policy], prevent_cse=prevent_cse)

    def named(block: Any, carry: Any, *further: Any) -> Any:
        return step(block, jax.tree.map(lambda x: checkpoint_name(x, _CARRY), carry), *further)

    return jax.checkpoint(named, policy=_POLICIES[policy], prevent_cse=prevent_cse)


@dataclass(frozen=True)
class Loop:
    """A loop over blocks.

    Attributes:
        policy: The remat policy.
        length: Number of inputs.
        blocks: Blocks that are computed with one input.
        unroll: Blocks in one iteration, if the loop is not flat.
        flat: Whether no loop is left: all blocks follow each other in the program.
    """

    policy: Remat
    length: int
    blocks: int = 1
    unroll: int = 1
    flat: bool = False

    @property
    def groups(self) -> int:
        """Groups of inputs: 1, except with the policy ``nested``."""
        size = group_size(self.length, self.blocks)
        return self.length // size if self.policy == "nested" and size * self.blocks > 1 else 1

    @property
    def inputs(self) -> int:
        """Inputs of one iteration."""
        size = self.length // self.groups
        return size if self.flat else min(size, max(1, self.unroll // self.blocks))

    @property
    def merges(self) -> bool:
        """Whether blocks are outside of the loop because of `unroll`.

        XLA could merge their recomputation with their forward pass.
        """
        size = self.length // self.groups
        return self.flat or (self.inputs > 1 and (self.inputs == size or size % self.inputs > 0))


def scan(body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any, loop: Loop) -> tuple[Any, Any]:
    """``jax.lax.scan`` over blocks; with the policy ``nested``, a scan over groups of blocks (see `group_size`).

    A group keeps its first carry. The backward pass computes its other carries again, one group at a time.

    Args:
        body: ``carry, output = body(carry, input)``, with the policy applied to its blocks.
        carry: The first carry.
        inputs: A tree of arrays with a dimension of size `loop.length` in front.
        loop: The loop.
    """
    groups, size = loop.groups, loop.length // loop.groups
    if groups == 1:
        return jax.lax.scan(body, carry, inputs, unroll=loop.inputs, length=size)

    def group(carry: Any, mine: Any) -> tuple[Any, Any]:
        return jax.lax.scan(body, carry, mine, unroll=loop.inputs, length=size)

    grouped = jax.tree.map(lambda x: x.reshape(groups, size, *x.shape[1:]), inputs)
    checkpointed_group = jax.checkpoint(group, prevent_cse=loop.flat)
    carry, outputs = jax.lax.scan(checkpointed_group, carry, grouped, unroll=groups if loop.flat else 1, length=groups)
    return carry, jax.tree.map(lambda x: x.reshape(loop.length, *x.shape[2:]), outputs)


def group_size(length: int, blocks: int = 1) -> int:
    """The divisor s of `length` with the least ``length / s + s * blocks``: the carries kept for all groups, and inside
    one group.

    Args:
        length: Inputs of a scan.
        blocks: Blocks of one input.
    """
    return min(
        (size for size in range(1, length + 1) if length % size == 0), key=lambda size: length // size + size * blocks
    )
