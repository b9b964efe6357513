"""Training steps with every update rule: microbatches, a mesh, and a checkpoint in between change nothing.

`soap` and `soapMuon` turn their parameters into bases of eigenvectors of squares of gradients. A square loses twice the
digits of a small singular value, and each direction of a basis gets an update of the same size. So the rounding of sums
grows by several orders. A test in float64 shows that nothing else differs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.optim.registry import RULES
from halcyon.step.program import Program, build_program
from halcyon.step.state import initial_state
from halcyon_api import mesh as mesh_memory
from halcyon_api.reading import parse_run
from halcyon_api.spec.rules import MatricesSpec
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import document
from tests.trainer.checkpoint.helpers import Root, open_root, position
from tests.trainer.checkpoint.roots import file_root  # noqa: F401 - a fixture
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_from

STEPS, ROWS, LENGTH = 4, 8, 8
ALONE = "fsdp 1"
CASES = [*RULES, "sophia hutchinson", "groups"]
FEW = ("groups",)
"""The cases that are no variants."""
_EACH = [pytest.param(name, marks=[] if name in FEW else [pytest.mark.variant]) for name in CASES]
_LIMITS = {"soap": 1e-4, "soapMuon": 2e-3}
"""Largest difference of a parameter in float32. Default: 1e-6."""
_EVERY = {"sophia": 2, "soap": 2}
"""Steps between estimates or bases, so that four steps have both kinds of step."""

pytestmark = pytest.mark.slow


def optimizer_of(case: str) -> dict[str, Any]:
    if case == "groups":
        groups = [{"match": "*.mlp.*", "frozen": True}, {"roles": ["embedding"], "rule": "lion", "learningRate": 0.1}]
        return {"adamw": {}, "groups": groups}
    name, _, estimator = case.partition(" ")
    return {
        name: ({"estimator": estimator} if estimator else {}) | ({"everySteps": _EVERY[name]} if name in _EVERY else {})
    }


def spec_of(run: dict[str, Any]) -> TrainingRunSpec:
    return parse_run(run).spec


def float64_spec_of(run: dict[str, Any]) -> TrainingRunSpec:
    """A run in float64, which no document can ask for."""
    spec = parse_run(run).spec
    precision = spec.trainer.precision.model_copy(update=dict.fromkeys(("parameters", "compute", "moments"), "float64"))
    matrices = MatricesSpec().model_copy(update={"iteration_type": "float64"})
    changed = {
        "trainer": spec.trainer.model_copy(update={"precision": precision}),
        "optimizer": spec.optimizer.model_copy(update={"matrices": matrices}),
    }
    return spec.model_copy(update=changed)


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """All arithmetic is float64, also where the trainer asks for float32."""
    compiled.cache_clear(), parameters.cache_clear()
    monkeypatch.setitem(mesh_memory.WIDTHS, "float64", 8)
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    monkeypatch.setattr(sys.modules[__name__], "spec_of", float64_spec_of)
    with jax.enable_x64(True):
        yield
    compiled.cache_clear(), parameters.cache_clear()


@functools.cache
def compiled(case: str, on: str, microbatches: int) -> tuple[Program, Any]:
    moments = "float8" if case.startswith("float8 ") else "float32"
    run = document(
        spec__accelerator={"type": "cpu", "topology": "1x4", "slices": 1},
        spec__model={"family": "llama", "numHiddenLayers": 2, "hiddenSize": 16, "intermediateSize": 16, "numAttentionHeads": 2},
        spec__optimizer={"learningRate": 1e-3,
        "schedule": {"constant": {}}} | optimizer_of(case.removeprefix("float8 ")),
        spec__average={"ema": {"decay": 0.9}},
        spec__trainer={
            "steps": STEPS, "batchSize": ROWS, "sequenceLength": LENGTH, "microbatches": microbatches,
            "attention": "reference",
            "precision": {"moments": moments},
        },
    )  # fmt: skip
    program = build_program(spec_of(run), 60, mesh_from(on))
    return program, program.compile_step(ROWS, LENGTH)


def batch(program: Program, number: int, microbatches: int) -> Any:
    """Weights differ between rows, and some are 0, so a mean of means would give another update."""
    noise = np.random.default_rng(number)
    tokens = noise.integers(0, 60, (ROWS, LENGTH + 1)).astype(np.int32)
    weights = (
        noise.random((ROWS, LENGTH)) * (noise.random((ROWS, LENGTH)) > np.linspace(0, 0.8, ROWS)[:, None])
    ).astype(np.float32)
    arrays = (tokens[:, :-1], tokens[:, 1:], weights, np.zeros((ROWS, LENGTH), np.int32))
    return batch_of(
        *(jax.device_put(each.reshape(microbatches, -1, LENGTH), program.batch_sharding) for each in arrays)
    )


def trained(
    case: str, on: str = ALONE, microbatches: int = 1, *, start: Any = None, steps: range = range(STEPS)
) -> tuple[Program, Any]:
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
    assert found <= _LIMITS.get(case, 1e-6)
    measured("rule accumulation", case, found)


@pytest.mark.variant
@pytest.mark.parametrize("case", CASES)
def test_four_devices_train_like_one(case: str, measured: Callable[..., None]) -> None:
    found = difference(case, "fsdp 2 x tensor 2", 1)
    assert found <= _LIMITS.get(case, 1e-6)
    measured("rule mesh", case, found)


@pytest.mark.variant
@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(("case", "most"), [("soap", 1e-11), ("soapMuon", 1e-8)])
def test_in_float64_rules_with_bases_train_like_the_full_batch_too(
    case: str, most: float, measured: Callable[..., None]
) -> None:
    found = max(difference(case, ALONE, 4), difference(case, "fsdp 2 x tensor 2", 1))
    assert {leaf.dtype for leaf in parameters(case)} == {np.dtype(np.float64)}
    assert found <= most
    measured("rule float64", case, found)


@pytest.mark.parametrize("case", [*_EACH, "float8 groups"])
def test_a_run_that_resumes_from_a_checkpoint_has_the_same_bits(
    case: str,
    file_root: Root,  # noqa: F811
    measured: Callable[..., None],
) -> None:
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
        np.asarray(left).tobytes() != np.asarray(right).tobytes()
        for left, right in zip(*map(jax.tree.leaves, (state, calm)), strict=True)
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
