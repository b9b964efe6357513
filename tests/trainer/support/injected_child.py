"""One process of a group in which random faults are injected, one after the other: ``python -m
tests.trainer.support.injected_child INDEX COUNT COORDINATOR INJECTIONS WRONG MODEL RULE``.

A window is a few steps and the audit after the last one. First all windows run without a fault. Then each runs with one
fault in a random process, and after the audit once more from the state before it:

- ``state``: after a random step of the window, one bit of a random array is another one in the memory of the process;
- ``arithmetic``: from a random step of the window on, the process computes its loss a little wrong;
- ``once``: only the first computation of a gradient in the audit is wrong.

Only the processes WRONG, such as ``0,2``, compute anything wrong, because each needs programs of its own.

The last line of the output is JSON: for each window the fault, its process, what the audit found, the processes that
it named, and whether the fault is gone, because rounding has removed the wrong bit before the audit; and whether the
losses and the last state have the bits of the run without faults.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from halcyon.checkpoint.layout import flatten
from halcyon.parallel.process_group import join, leave
from halcyon.step.audit import Audit, Finding
from halcyon.step.program import Program
from halcyon.step.state import TrainState
from tests.trainer.step.test_audit import LENGTH, ROWS, batch_for, first_state, flipped, program_on

STEPS = 4
KINDS = ("state", "arithmetic", "once")


class Group:
    """The programs of all processes, by the process whose numbers are wrong in them; None: those of no process."""

    def __init__(self, count: int, wrong: list[int], model: str, rule: str) -> None:
        def on(index: int | None) -> Program:
            return program_on(
                f"replica {count}", model, fault=index if index is None else ("replica", index), rule=rule
            )

        programs = {index: on(index) for index in (None, *wrong)}
        self.right = programs[None]
        self.steps = {index: program.compile_step(ROWS, LENGTH) for index, program in programs.items()}
        self.audits = {index: Audit(program) for index, program in programs.items()}
        self.kept: Callable[[Any], Any] = jax.jit(lambda state: jax.tree.map(jnp.copy, state))
        zeros = np.zeros(1, np.int32)
        self.control = jax.make_array_from_process_local_data(self.right.control_sharding, zeros, (count,))

    def window(
        self,
        state: TrainState,
        number: int,
        changed: Callable[[TrainState, int], TrainState] = lambda state, _: state,
        wrong: Sequence[int | None] = (None,) * STEPS,
    ) -> tuple[TrainState, list[bytes]]:
        """The state after the steps of a window, and the bits of their losses.

        Args:
            state: The state before it, which stays.
            number: Number of the window.
            changed: The state in this process's memory after a step of the window.
            wrong: For each step, the program that computes it.
        """
        state, losses = self.kept(state), list[bytes]()
        for place in range(STEPS):
            batch = batch_for(self.right, STEPS * number + place)
            state, metrics = self.steps[wrong[place]](state, batch, self.control)
            losses.append(b"".join(np.asarray(leaf.addressable_data(0)).tobytes() for leaf in jax.tree.leaves(metrics)))
            state = changed(state, place)
        return state, losses

    def found(self, state: TrainState, number: int, programs: tuple[int | None, int | None]) -> Finding | None:
        """What the audit after a window finds.

        Args:
            state: The state after it.
            number: Number of the window.
            programs: The programs that compute the first gradient, and the others.
        """
        batch = batch_for(self.right, STEPS * number + STEPS - 1)
        first, rest = (self.audits[program] for program in programs)
        digests, evaluations = rest._digests, [first._digests]
        rest._digests = lambda *given: (evaluations.pop() if evaluations else digests)(*given)  # type: ignore[method-assign]
        try:
            return rest.state(state) or rest.gradient(state, batch)
        finally:
            rest._digests = digests  # type: ignore[method-assign]


def bits(state: TrainState) -> bytes:
    """The bits of this process's copy of a state."""
    return b"".join(np.asarray(leaf.addressable_data(0)).tobytes() for leaf in jax.tree.leaves(state))


def main(index: int, count: int, coordinator: str, injections: int, wrong: list[int], model: str, rule: str) -> None:
    """Run the windows, and print what was found."""
    processes = join(coordinator, index, count, 1)
    group = Group(count, wrong, model, rule)
    paths = [leaf.path for leaf in flatten(group.right.template)]

    calm: list[list[bytes]] = []
    state = first_state(group.right)
    for number in range(injections):
        state, losses = group.window(state, number)
        calm.append(losses)
    last, state, found = bits(state), first_state(group.right), list[dict[str, Any]]()
    equal = True
    for number in range(injections):
        noise = np.random.default_rng((7, number))
        kind, when = KINDS[number % 3], int(noise.integers(STEPS))
        faulty = int(noise.integers(count)) if kind == "state" else int(noise.choice(wrong))
        leaf = int(noise.integers(len(paths)))

        def changed(
            state: TrainState,
            place: int,
            *,
            here: bool = kind == "state" and index == faulty,
            when: int = when,
            leaf: int = leaf,
            noise: np.random.Generator = noise,
        ) -> TrainState:
            return flipped(state, 0, leaf, noise) if here and place == when else state

        computed = [faulty if kind == "arithmetic" and place >= when else None for place in range(STEPS)]
        disturbed, _ = group.window(state, number, changed, computed)
        programs = {"state": (None, None), "arithmetic": (faulty, faulty), "once": (faulty, None)}[kind]
        finding = group.found(disturbed, number, programs)
        named = [] if finding is None else [group.right.mesh.devices.flat[n].process_index for n in finding.devices]
        array = paths[leaf] if kind == "state" else ""
        fault = {"fault": kind, "process": faulty, "step": when, "array": array}
        state, losses = group.window(state, number)
        gone = bits(disturbed) == bits(state)
        found.append(fault | {"found": finding and finding.what, "named": named, "gone": gone})
        equal &= losses == calm[number]
    sys.stdout.write(json.dumps({"injections": found, "equal": bool(equal and bits(state) == last)}) + "\n")
    leave(processes)


if __name__ == "__main__":
    place, processes, address, number, wrong, *rest = sys.argv[1:]
    main(int(place), int(processes), address, int(number), [int(one) for one in wrong.split(",")], *rest)
