"""`trainer.unroll` computes several blocks in one iteration of a loop: fewer iterations, and the same numbers."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import jax
import numpy as np
import pytest

from halcyon.models.remat import Loop
from halcyon.models.stack import stacks_of, with_loops
from halcyon_api.spec.trainer import AUTOMATIC_UNROLL, WITHOUT_LOOP, Remat, unrolled_blocks
from tests.trainer.models.test_remat import LAYERS, program, variants
from tests.trainer.step.test_program import program_of

FAST: list[tuple[str, Remat, int]] = [("llama", "full", 2), ("llama", "attention", 5)]
MORE: list[tuple[str, Remat, int]] = [
    ("gpt2", "none", 2), ("llama", "nested", 2), ("mixtral", "dots", 3), ("gemma3", "full", 12), ("nanochat", "none",
    8),
]  # fmt: skip
"""Blocks of one kind; blocks that follow the loop; inputs of each block; groups; experts; repetitions of a pattern; two
stacks.
"""


def iterations_of(program: str) -> Counter[int]:
    """The loops of a program, by their iterations."""
    return Counter(int(count) for count in re.findall(r'known_trip_count":\{"n":"(\d+)"', program))


def computed(family: str, remat: Remat, blocks: int) -> tuple[float, list[np.ndarray], Counter[int]]:
    """Loss, gradients, and the loops of the program."""
    run, build = program(family, remat)
    model = with_loops(build(), unroll=blocks)
    compiled = run.lower(model).compile()
    loss, gradients = compiled(model)
    return (
        float(loss),
        [np.asarray(leaf) for leaf in jax.tree.leaves(gradients)],
        iterations_of(compiled.as_text() or ""),
    )


@pytest.mark.parametrize(("family", "remat", "blocks"), variants([*FAST, *MORE], FAST))
def test_several_blocks_in_one_iteration_change_no_bit_on_a_processor(family: str, remat: Remat, blocks: int) -> None:
    loss, gradients, loops = computed(family, remat, blocks)
    expected, expected_gradients, before = computed(family, remat, 1)
    assert loops != before
    assert loss == expected
    largest = max(np.abs(gradient).max() for gradient in expected_gradients)
    for found, right in zip(gradients, expected_gradients, strict=True):
        if blocks < LAYERS:
            np.testing.assert_array_equal(found, right)
        else:  # no loop is left, and XLA fuses the blocks with their neighbours
            np.testing.assert_allclose(found, right, rtol=0, atol=1e-6 * largest)


def test_a_loop_has_as_many_iterations_less() -> None:
    assert computed("llama", "full", 1)[2] == {LAYERS: 2}
    assert computed("llama", "full", 4)[2] == {LAYERS // 4: 2}
    assert computed("llama", "full", LAYERS)[2] == {}


@pytest.mark.parametrize(
    ("loop", "inputs", "merges"),
    [
        (Loop("none", 12), 1, False),
        (Loop("none", 12, unroll=4), 4, False),
        (Loop("none", 12, unroll=5), 5, True),  # two blocks follow the loop
        (Loop("none", 12, unroll=100), 12, True),
        (Loop("none", 4, blocks=6, unroll=8), 1, False),
        (Loop("none", 4, blocks=6, unroll=12), 2, False),
        (Loop("nested", 16, unroll=2), 2, False),
        (Loop("nested", 16, unroll=4), 4, True),  # the blocks of a group
        (Loop("none", 12, flat=True), 12, True),
    ],
)
def test_an_iteration_computes_whole_repetitions(loop: Loop, inputs: int, merges: bool) -> None:
    assert (loop.inputs, loop.merges) == (inputs, merges)


@pytest.mark.parametrize(
    ("platform", "sizes", "remat", "pipelined", "blocks"),
    [
        ("gpu", {"fsdp": 8}, "none", False, AUTOMATIC_UNROLL),
        ("gpu", {"fsdp": 1, "tensor": 2}, "none", False, AUTOMATIC_UNROLL),
        ("gpu", {"replica": 2, "data": 4, "fsdp": 1}, "none", False, 1),  # gradients are sent after the loop
        ("gpu", {"fsdp": 8}, "none", True, 1),
        ("gpu", {"data": 1, "fsdp": 1}, "none", False, WITHOUT_LOOP),
        ("gpu", {"data": 1, "fsdp": 1}, "attention", False, 1),
        ("tpu", {"fsdp": 8}, "none", False, 1),
        ("cpu", {"fsdp": 1}, "none", False, 1),
    ],
)
def test_auto_unrolls_where_gpus_send_in_each_block_or_one_keeps_all(
    platform: str, sizes: dict[str, int], remat: Remat, pipelined: bool, blocks: int
) -> None:
    assert unrolled_blocks("auto", platform, sizes, remat, pipelined=pipelined) == blocks
    assert unrolled_blocks(3, platform, sizes, remat, pipelined=pipelined) == 3


@pytest.mark.parametrize(("settings", "blocks"), [({}, 1), ({"unroll": 3}, 3), ({"unroll": "auto"}, 1)])
def test_the_model_of_a_run_has_the_loops_of_its_document(settings: dict[str, Any], blocks: int) -> None:
    stacks = stacks_of(program_of(spec__trainer={"steps": 1, "batchSize": 4} | settings).template.model)
    assert {stack.unroll for stack in stacks.values()} == {blocks}
