"""Stacks of several forms, computed in one order, are a loop over their blocks."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest
from haliax import Axis, NamedArray

from halcyon.models.mixed_stacks import scan_forms
from halcyon.models.parameters import Role, parameter
from halcyon.models.stack import Stack

EMBED, BATCH = Axis("embed", 6), Axis("batch", 3)


class Scaled(eqx.Module):
    """A block that has an output."""

    scale: NamedArray = parameter(Role.NORM)


class Shifted(eqx.Module):
    """A block without an output, with other parameters."""

    shift: NamedArray = parameter(Role.BIAS)
    scale: NamedArray = parameter(Role.NORM)


def random(key: int, count: int) -> NamedArray:
    return hax.random.normal(jax.random.key(key), (Axis("layers", count), EMBED))


def step(kind: float, block: Scaled | Shifted, x: NamedArray) -> tuple[NamedArray, Any]:
    x = x * block.scale * kind
    if isinstance(block, Shifted):
        return x + block.shift, None
    return x, hax.sum(x, EMBED)


@pytest.mark.parametrize("remat", ["none", "full"])
@pytest.mark.parametrize("forms", ["aaa", "baaaa", "abababab", "bbaabaab"])
def test_blocks_are_computed_in_order_and_outputs_keep_it(forms: str, remat: Any) -> None:
    kinds = tuple((form, 1.0 if number % 2 else -0.5) for number, form in enumerate(forms))
    counts = {form: forms.count(form) for form in "ab" if form in forms}
    made = {"a": lambda n: Scaled(random(1, n)), "b": lambda n: Shifted(random(2, n), random(3, n))}
    stacks = {form: Stack(Axis("layers", count), made[form](count), remat) for form, count in counts.items()}
    x = hax.random.normal(jax.random.key(3), (BATCH, EMBED))

    def scanned(stacks: Any) -> tuple[jax.Array, jax.Array]:
        carry, outputs = scan_forms(stacks, kinds, step, x)
        return hax.sum(carry * carry).scalar(), outputs.array

    def looped(stacks: Any) -> tuple[jax.Array, jax.Array]:
        carry, outputs, used = x, [], dict.fromkeys(counts, 0)
        for form, kind in kinds:
            whole = stacks[form].stacked
            arrays = {name: hax.named(getattr(whole, name).array[used[form]], EMBED) for name in vars(whole)}
            carry, output = step(kind, type(whole)(**arrays), carry)
            used[form] += 1
            outputs += [] if output is None else [output.array]
        return hax.sum(carry * carry).scalar(), jax.numpy.stack(outputs)

    found, expected = (jax.jit(jax.value_and_grad(function, has_aux=True))(stacks) for function in (scanned, looped))
    for left, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)
