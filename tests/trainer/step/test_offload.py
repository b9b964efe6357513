"""The optimizer state and the average in the host's memory: the same bits, the same checkpoints, and no copy on the
devices.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from halcyon.host.errors import BadConfiguration
from halcyon.parallel.devices import check_host_memory, has_host_memory
from halcyon.step.device_use import plan_of
from halcyon.step.offload import is_on_host, on_devices, on_devices_after
from halcyon.step.program import Program, build_program
from halcyon.step.state import initial_state
from halcyon_api.reading import parse_run
from halcyon_api.spec.trainer import TrainerSpec
from tests.api.documents import document
from tests.families import llama
from tests.trainer.checkpoint.helpers import Root, open_root, position
from tests.trainer.checkpoint.roots import file_root  # noqa: F401 - a fixture
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_from

ROWS, LENGTH, STEPS = 8, 8, 3
CASES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"spec__optimizer": {"muon": {}}},
    "average": {"spec__average": {"ema": {"decay": 0.9}}},
    "float8": {"precision": {"moments": "float8"}},
    "adapter": {"spec__adapter": {"lora": {"rank": 2}}},
}
_FAST = ("average",)


def program_of(case: str, on: str, offload: str) -> Program:
    changes = {name: value for name, value in CASES[case].items() if name.startswith("spec")}
    trainer = {"steps": STEPS, "batchSize": ROWS, "sequenceLength": LENGTH, "offload": offload, "microbatches": 2}
    trainer |= {name: value for name, value in CASES[case].items() if not name.startswith("spec")}
    run = document(
        spec__accelerator={"type": "cpu", "topology": "1x4", "slices": 1},
        spec__model=llama(2, 16, 16, 2),
        spec__trainer=trainer,
        **changes,
    )
    return build_program(parse_run(run).spec, 60, mesh_from(on))


def trained(program: Program, state: Any = None, steps: range = range(STEPS)) -> Any:
    step = program.compile_step(ROWS, LENGTH)
    state = initial_state(program.build_state, program.template) if state is None else state
    control = jax.device_put(np.zeros(program.mesh.size, np.int32), program.control_sharding)
    for number in steps:
        tokens = np.random.default_rng(number).integers(0, 60, (2, ROWS // 2, LENGTH + 1)).astype(np.int32)
        arrays = (
            tokens[..., :-1],
            tokens[..., 1:],
            np.ones(tokens[..., 1:].shape, np.float32),
            np.zeros(tokens[..., 1:].shape, np.int32),
        )
        state, _ = step(state, batch_of(*(jax.device_put(each, program.batch_sharding) for each in arrays)), control)
    return state


def assert_same_bits(left: Any, right: Any) -> None:
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("on", ["fsdp 2 x tensor 2", pytest.param("fsdp 1", marks=pytest.mark.variant)])
@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=() if case in _FAST else pytest.mark.variant) for case in CASES]
)
def test_a_run_has_the_bits_of_one_without_offload_also_after_a_restart_on_the_devices(
    case: str,
    on: str,
    file_root: Root,  # noqa: F811
) -> None:
    """The checkpoint of a run with offload is read by one without, so a checkpoint does not say where its arrays
    were.
    """
    plain, host = (program_of(case, on, offload) for offload in ("none", "optimizer"))
    calm = trained(plain)
    state = trained(host, steps=range(2))
    assert {is_on_host(leaf) for leaf in jax.tree.leaves((state.optimizer_state, state.average)) if leaf.shape} == {
        True
    }
    assert not any(map(is_on_host, jax.tree.leaves(state.model)))
    with open_root(file_root) as checkpointer:
        checkpointer.save(2, state, position(2))
        checkpointer.finish()
        assert checkpointer.last_error is None
    for program in (host, plain):
        with open_root(file_root) as checkpointer:
            restored = checkpointer.restore(program.template)
        assert restored is not None
        assert [leaf.sharding for leaf in jax.tree.leaves(restored.state)] == [
            leaf.sharding for leaf in jax.tree.leaves(program.template)
        ]
        assert_same_bits(trained(program, restored.state, range(2, STEPS)), calm)


def test_only_arrays_of_the_optimizer_and_the_average_are_in_the_memory_of_the_host() -> None:
    template = program_of("average", "fsdp 4", "optimizer").template
    held = {
        name: {is_on_host(leaf) for leaf in jax.tree.leaves(part) if leaf.shape}
        for name, part in vars(template).items()
    }
    assert {name for name, found in held.items() if True in found} == {"optimizer_state", "average"}
    assert held["optimizer_state"] == held["average"] == {True}
    assert not any(is_on_host(leaf) for leaf in jax.tree.leaves(template) if not leaf.shape)
    assert not any(map(is_on_host, jax.tree.leaves(program_of("average", "fsdp 4", "none").template)))


def test_copies_to_the_devices_begin_only_in_a_branch_on_a_number() -> None:
    """XLA's scheduler would start other copies before the backward pass, from which the number comes."""
    average = program_of("average", "fsdp 4", "optimizer").template.average
    traced = jax.make_jaxpr(on_devices_after)(average, jax.ShapeDtypeStruct((), np.float32))
    outside = [each.primitive.name for each in traced.eqns]
    assert "cond" in outside
    assert "device_put" not in outside
    assert all(each.aval.memory_space == jax.memory.Space.Device for each in traced.jaxpr.outvars)


def test_an_average_can_be_copied_to_the_devices_to_evaluate_it() -> None:
    program = program_of("average", "fsdp 4", "optimizer")
    state = initial_state(program.build_state, program.template)
    held = on_devices(state.average)
    assert not any(map(is_on_host, jax.tree.leaves(held)))
    assert_same_bits(held, state.average)


@pytest.mark.slow
def test_the_plan_says_what_is_in_the_memory_of_the_host() -> None:
    program = program_of("adamw", "fsdp 4", "optimizer")
    plan = plan_of(program, program.compile_step(ROWS, LENGTH), ROWS, LENGTH, remat="none", memory_bytes=None)
    scalars = 4  # the count of the gradients
    assert plan.memory.offloaded == plan.memory.optimizer - scalars > 0
    assert "in host memory" in plan.sentence()


def device(*kinds: str) -> Any:
    return SimpleNamespace(addressable_memories=lambda: [SimpleNamespace(kind=kind) for kind in kinds])


def test_devices_without_such_a_memory_are_refused() -> None:
    both, one = device("device", "pinned_host"), device("device")
    assert has_host_memory([both, both])
    assert not has_host_memory([both, one])
    offloaded = TrainerSpec(steps=1, batch_size=1, offload="optimizer")
    check_host_memory(offloaded, [both])
    check_host_memory(TrainerSpec(steps=1, batch_size=1), [one])
    with pytest.raises(
        BadConfiguration, match=r"^spec.trainer.offload: JAX has no memory of the host for these devices; choose none"
    ):
        check_host_memory(offloaded, [one])
