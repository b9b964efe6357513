"""Training steps with every update rule: microbatches, a mesh, and a checkpoint in between change nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from halcyon.optim.registry import RULES
from halcyon.training.program import Program, build_program
from halcyon.training.state import initial_state
from halcyon_api.training_run import parse_run
from tests.api.documents import document
from tests.trainer.batches import batch_of
from tests.trainer.checkpoint.helpers import Root, open_root, position
from tests.trainer.checkpoint.roots import file_root  # noqa: F401 - a fixture
from tests.trainer.meshes import mesh_from

STEPS, ROWS, LENGTH = 4, 8, 8
ALONE = "fsdp 1"
CASES = [*RULES, "sophia hutchinson", "groups"]
FEW = ("groups",)
"""The cases that are no variants."""
_EACH = [pytest.param(name, marks=[] if name in FEW else [pytest.mark.variant]) for name in CASES]
_BY_BASES = ("soap", "soapMuon")
"""The rules whose bases of few gradients rounding turns: eigenvectors of nearly equal eigenvalues are not unique."""

pytestmark = pytest.mark.slow


def optimizer_of(case: str) -> dict[str, Any]:
    if case == "groups":
        groups = [{"match": "*.mlp.*", "frozen": True}, {"roles": ["embedding"], "rule": "lion", "learningRate": 0.1}]
        return {"adamw": {}, "groups": groups}
    name, _, estimator = case.partition(" ")
    return {name: ({"estimator": estimator} if estimator else {}) | ({"everySteps": 2} if name == "sophia" else {})}


@functools.cache
def compiled(case: str, on: str, microbatches: int) -> tuple[Program, Any]:
    run = document(
        spec__accelerator={"type": "cpu", "topology": "1x4", "slices": 1},
        spec__model={"llama": {"layers": 2, "hiddenSize": 16, "intermediateSize": 16, "heads": 2}},
        spec__optimizer={"learningRate": 1e-3, "schedule": {"constant": {}}} | optimizer_of(case),
        spec__average={"ema": {"decay": 0.9}},
        spec__trainer={"steps": STEPS, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches, "attention": "reference"},
    )
    program = build_program(parse_run(run).spec, 60, mesh_from(on))
    return program, program.compile_step(ROWS, LENGTH)


def batch(program: Program, number: int, microbatches: int) -> Any:
    """Weights differ between rows, and some are 0, so a mean of means would give another update."""
    noise = np.random.default_rng(number)
    tokens = noise.integers(0, 60, (ROWS, LENGTH + 1)).astype(np.int32)
    weights = (noise.random((ROWS, LENGTH)) * (noise.random((ROWS, LENGTH)) > np.linspace(0, 0.8, ROWS)[:, None])).astype(np.float32)
    arrays = (tokens[:, :-1], tokens[:, 1:], weights, np.zeros((ROWS, LENGTH), np.int32))
    return batch_of(*(jax.device_put(each.reshape(microbatches, -1, LENGTH), program.batch_sharding) for each in arrays))


def trained(case: str, on: str = ALONE, microbatches: int = 1, *, start: Any = None, steps: range = range(STEPS)) -> tuple[Program, Any]:
    program, step = compiled(case, on, microbatches)
    state = initial_state(program.build_state, program.template) if start is None else start
    control = jax.device_put(np.zeros(program.mesh.size, np.int32), program.control_sharding)
    for number in steps:
        state, _ = step(state, batch(program, number, microbatches), control)
    return program, state


@functools.cache
def parameters(case: str, on: str = ALONE, microbatches: int = 1) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(trained(case, on, microbatches)[1].model)]


def difference(case: str, on: str, microbatches: int) -> float:
    pairs = zip(parameters(case, on, microbatches), parameters(case), strict=True)
    return max(float(np.abs(left - right).max()) for left, right in pairs)


@pytest.mark.parametrize("case", _EACH)
def test_microbatches_with_uneven_weights_train_like_the_full_batch(case: str, measured: Callable[..., None]) -> None:
    found = difference(case, ALONE, 4)
    assert found <= (1e-3 if case in _BY_BASES else 1e-6)
    measured("rule accumulation", case, found)


@pytest.mark.variant
@pytest.mark.parametrize("case", CASES)
def test_four_devices_train_like_one(case: str, measured: Callable[..., None]) -> None:
    found = difference(case, "fsdp 2 x tensor 2", 1)
    assert found <= (1e-3 if case in _BY_BASES else 1e-5)
    measured("rule mesh", case, found)


@pytest.mark.parametrize("case", _EACH)
def test_a_run_that_resumes_from_a_checkpoint_has_the_same_bits(case: str, file_root: Root, measured: Callable[..., None]) -> None:  # noqa: F811
    _, calm = trained(case)
    program, state = trained(case, steps=range(2))
    with open_root(file_root) as checkpointer:
        checkpointer.save(2, state, position(2))
        checkpointer.finish()
        assert checkpointer.last_error is None
    with open_root(file_root) as checkpointer:
        restored = checkpointer.restore(program.template)
    assert restored is not None
    _, state = trained(case, start=restored.state, steps=range(2, STEPS))
    differing = sum(
        np.asarray(left).tobytes() != np.asarray(right).tobytes() for left, right in zip(*map(jax.tree.leaves, (state, calm)), strict=True)
    )
    assert differing == 0
    measured("rule resume", case, len(jax.tree.leaves(state)))


def test_a_frozen_parameter_keeps_its_bits() -> None:
    program, state = trained("groups")
    start = initial_state(program.build_state, program.template)
    assert program.trained is not None
    flags = jax.tree.leaves(program.trained)
    for flag, left, right in zip(flags, jax.tree.leaves(start.model), jax.tree.leaves(state.model), strict=True):
        assert (np.asarray(left).tobytes() != np.asarray(right).tobytes()) is flag
    assert len(flags) > sum(flags) > 0
