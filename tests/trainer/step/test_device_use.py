"""The plan of a run: bytes of one device, split of the batch, collectives by mesh axis; and what no program may do."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import Any

import jax
import pytest

from halcyon.run.auto_tuning import planned
from halcyon.step.device_use import Plan, Traffic, event_fields, plan_of, traffic_of
from halcyon.step.hlo.collectives import Collective, collectives
from halcyon.step.program import Program, build_program
from halcyon_api.status.progress import Progress
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import minimal_spec
from tests.trainer.step.plans import PLAN
from tests.trainer.support.meshes import mesh_of

VOCABULARY, ROWS, LENGTH = 512, 16, 32
LLAMA = {"numHiddenLayers": 2, "hiddenSize": 32, "intermediateSize": 64, "numAttentionHeads": 4}
MESHES: dict[str, dict[str, int]] = {
    "fsdp": {"fsdp": 8},
    "replica": {"replica": 2, "fsdp": 2, "tensor": 2},
    "data": {"data": 2, "fsdp": 4},
    "tensor": {"fsdp": 4, "tensor": 2},
    "context": {"fsdp": 2, "context": 2, "tensor": 2},
}
FAST = ("fsdp",)


def spec_of(**changes: Any) -> TrainingRunSpec:
    trainer = {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH} | changes.pop("trainer", {})
    accelerator = {"type": "cpu", "topology": "1x8", "slices": 1}
    return minimal_spec(
        spec__accelerator=accelerator, spec__model={"family": "llama"} | LLAMA, spec__trainer=trainer, **changes
    )


@functools.cache
def compiled(name: str) -> tuple[Program, jax.stages.Compiled]:
    program = build_program(spec_of(), VOCABULARY, mesh_of(**MESHES[name]))
    return program, program.compile_step(ROWS, LENGTH)


def plan(name: str) -> Plan:
    return plan_of(*compiled(name), ROWS, LENGTH, remat="none", memory_bytes=10**9)


def shards(name: str) -> int:
    return math.prod(size for axis, size in MESHES[name].items() if axis in ("fsdp", "tensor"))


each_mesh = pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.variant) for name in MESHES]
)


@each_mesh
def test_a_device_has_its_share_of_the_state(name: str) -> None:
    program, _ = compiled(name)
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(program.template.model))
    memory = plan(name).memory
    assert parameters / shards(name) <= memory.parameters <= 1.1 * parameters / shards(name), (
        "norms are not split over heads and features"
    )
    assert memory.gradients == memory.parameters
    assert memory.optimizer == pytest.approx(2 * memory.parameters, rel=0.01)
    assert memory.step is not None
    assert memory.activations is not None
    assert memory.step >= memory.parameters + memory.optimizer + memory.activations


@each_mesh
def test_no_device_has_the_whole_model_or_the_whole_batch_at_once(name: str) -> None:
    program, step = compiled(name)
    found = collectives(step.as_text() or "")
    largest = max(4 * leaf.size for leaf in jax.tree.leaves(program.template.model) if leaf.size)
    assert max(one.size_bytes for one in found if one.kind == "all-gather") <= largest
    assert not [one for one in found if one.kind == "all-gather" and one.shape[:1] == (ROWS,)], (
        "rows of the batch are gathered"
    )


@each_mesh
def test_the_state_is_donated(name: str) -> None:
    _program, step = compiled(name)
    analysis: Any = step.memory_analysis()
    memory = plan(name).memory
    assert analysis.alias_size_in_bytes >= memory.parameters + memory.optimizer


def test_the_collectives_of_fsdp_are_over_its_axis() -> None:
    rows = {(row.kind, row.axes): row for row in plan("fsdp").traffic}
    assert ("all-gather", ("fsdp",)) in rows
    assert all("fsdp" in axes for _, axes in rows)


def test_traffic_adds_up_collectives_of_a_kind_and_leaves_small_ones_out() -> None:
    pairs = ((0, 1), (2, 3))
    found = [
        Collective("all-gather", "f32", (1024, 4), 1, 3, pairs),
        Collective("all-gather", "f32", (1024,), 0, 1, pairs, part_of=7),
        Collective("all-gather", "f32", (1024,), 0, 1, pairs, part_of=7),
        Collective("all-gather", "bf16", (1024,), 0, 1, pairs, further_bytes=8),
        Collective("all-reduce", "f32", (4,), 0, 1, pairs),
        Collective("all-reduce", "f32", (4096,), 0, 1, ((0,), (1,))),
    ]
    assert traffic_of(found, ("data", "fsdp"), (2, 2)) == (
        Traffic("all-gather", ("fsdp",), 3, 3 * 16384, 1, 16384, sent_bytes=3 * 16384 // 2),
        Traffic("all-gather", ("fsdp",), 2, 4096 + 2048 + 8, 0, 4096, sent_bytes=(4096 + 2048 + 8) // 2),
    )


def test_the_plan_is_one_line_in_the_status() -> None:
    sentence = (
        "replica 2 x fsdp 4, 4 x 2 sequences of 1024 on a device, remat dots, 1.0 GB in host memory, 3.5 GB of 16.0 GB"
    )
    assert PLAN.sentence() == sentence
    assert Progress(plan=sentence).plan == sentence
    padded = Progress(plan=replace(PLAN, batch_size=63).sentence()).plan
    assert "remat dots, 1 of 64 rows are padding, 1.0 GB" in str(padded)
    assert event_fields(PLAN)["collectives"] == "all-gather over fsdp: 100.0 MB in 4"


@pytest.mark.slow
def test_a_run_without_automatic_values_is_planned_for_its_largest_batch() -> None:
    trainer = {"microbatches": 2, "batchSchedule": [{"fromStep": 5, "batchSize": 2 * ROWS}]}
    _, found = planned(spec_of(trainer=trainer), VOCABULARY, mesh_of(fsdp=4, context=2), None)
    assert (found.batch_size, found.microbatches, found.rows, found.positions) == (2 * ROWS, 2, 4, LENGTH // 2)
    assert found.memory.available is None
