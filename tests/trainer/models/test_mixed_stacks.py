"""Stacks of several forms, computed in one order, are a loop over their blocks."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import haliax as hax
import jax
import numpy as np
import pytest
from haliax import Axis, NamedArray

from halcyon.models.mixed_stacks import scan_stacks
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
        carry, outputs = scan_stacks(stacks, kinds, step, x)
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


class Hashed(str):
    """A text with a given hash: the order of a set depends on it, as on the hash seed of a process."""

    __slots__ = ("number",)
    number: int

    def __new__(cls, text: str, number: int) -> Hashed:
        made = super().__new__(cls, text)
        made.number = number
        return made

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        return str.__eq__(self, other)  # type: ignore[arg-type]


def test_the_program_does_not_depend_on_the_hash_seed_of_the_process() -> None:
    def lowered(**numbers: int) -> str:
        forms = {form: Hashed(form, number) for form, number in numbers.items()}
        stacks = {
            forms["a"]: Stack(Axis("layers", 2), Scaled(random(1, 2))),
            forms["b"]: Stack(Axis("layers", 2), Shifted(random(2, 2), random(3, 2))),
        }
        kinds = tuple((forms[form], 1.0) for form in "baba")
        return jax.jit(lambda x: scan_stacks(stacks, kinds, step, x)[1]).lower(hax.ones((BATCH, EMBED))).as_text()

    assert lowered(a=0, b=1) == lowered(a=1, b=0)
