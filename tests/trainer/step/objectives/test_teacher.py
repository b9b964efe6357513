"""What a step with a teacher minimizes, against the formula on whole logits; the reported loss is that without one."""

from __future__ import annotations

import dataclasses
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.models import Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.parameters import joined, split
from halcyon.step.program import Program, build_program
from halcyon.step.state import TrainState, initial_state
from halcyon_api.memory import least_need
from halcyon_api.mesh import run_mesh
from halcyon_api.training_run import TrainingRunSpec
from tests.api.documents import minimal_spec
from tests.families import llama
from tests.trainer.models.test_divergence import textbook
from tests.trainer.support.meshes import mesh_of

ROWS, LENGTH, VOCABULARY = 4, 16, 60
TEACHER: dict[str, Any] = {"path": "/teacher", "model": llama(2, 24, 32, 4, numKeyValueHeads=2)}
POLICY = {"policy": {"reward": "gsm8k", "groupSize": 2, "maxTokens": 8}}


def spec_of(objective: dict[str, Any], teacher: dict[str, Any] | None, **changes: Any) -> TrainingRunSpec:
    trainer = {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH} | changes.pop("trainer", {})
    whole = objective if teacher is None else objective | {"teacher": TEACHER | teacher}
    optimizer = {"learningRate": 0.01, "schedule": {"constant": {}}, "adamw": {}}
    changes |= {"spec__objective": whole, "spec__optimizer": optimizer, "spec__trainer": trainer}
    return minimal_spec(spec__model=llama(1, 16, 24, 2, numKeyValueHeads=2), **changes)


def first_state(program: Program) -> TrainState:
    """The state before the first step, as arrays of NumPy, with random weights in the place of the zeros of the
    teacher.
    """
    state: Any = jax.tree.map(np.asarray, initial_state(program.build_state, program.template))
    noise = np.random.default_rng(3)
    random = jax.tree.map(lambda leaf: noise.standard_normal(leaf.shape).astype(leaf.dtype) * 0.5, state.reference)
    return dataclasses.replace(state, reference=random)


def arrays() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(5)
    texts = noise.integers(1, VOCABULARY, (ROWS, LENGTH + 1)).astype(np.int32)
    weights = (noise.random((ROWS, LENGTH)) < 0.6).astype(np.float32)
    advantages = np.repeat(noise.standard_normal((ROWS, 1)), LENGTH, 1).astype(np.float32)
    segments = np.ones((ROWS, LENGTH), np.int32)
    found = {"tokens": texts[:, :-1], "targets": texts[:, 1:], "weights": weights, "segments": segments}
    return found | {"advantages": advantages}


def one_step(program: Program, first: TrainState, microbatches: int = 1) -> tuple[TrainState, Any]:
    parts = {
        name: jnp.asarray(array.reshape(microbatches, -1, LENGTH))
        for name, array in arrays().items()
        if name in program.objective.fields
    }
    with program.tracing():
        return jax.jit(program.train_step)(first, parts, jnp.zeros(program.mesh.size, jnp.int32))


def logits_of(model: Any) -> jax.Array:
    inputs = Inputs(hax.named(jnp.asarray(arrays()["tokens"]), (BATCH, POSITION)))
    return model.logits(model(inputs).features).rearrange((BATCH, POSITION, "vocab")).array[..., :VOCABULARY]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("objective", "teacher", "changes"),
    [
        ({"nextToken": {}}, {"beta": 0.4, "weight": 0.7}, {}),
        pytest.param({"finetune": {}}, {"topK": 5}, {}, marks=pytest.mark.variant),
        (POLICY, {"beta": 1.0}, {}),
        pytest.param(POLICY, {"weight": 0.5}, {}, marks=pytest.mark.variant),
        pytest.param(
            {"nextToken": {}}, {"weight": 0.5}, {"spec__adapter": {"lora": {"rank": 2}}}, marks=pytest.mark.variant
        ),
    ],
)
def test_a_step_minimizes_the_share_of_the_divergence(
    objective: dict[str, Any], teacher: dict[str, Any], changes: dict[str, Any]
) -> None:
    form = {"chat": {}} if "finetune" in objective else {"prompt": {}} if "policy" in objective else {"text": {}}
    source = {"name": "s", "jsonl": {"paths": ["/data/x.jsonl"]}, "format": form}
    changes = changes | {"spec__data__sources": [source]}
    if "spec__adapter" in changes:
        changes["spec__from"] = {"huggingFace": {"path": "/base"}}
    program = build_program(spec_of(objective, teacher, **changes), VOCABULARY, mesh_of())
    first = first_state(program)
    plain = build_program(spec_of(objective, None, **changes), VOCABULARY, mesh_of())
    state, metrics = one_step(program, first)
    _, alone = one_step(plain, dataclasses.replace(first, reference=None))
    assert float(metrics.loss) == float(alone.loss), "the reported loss is that of the objective"

    weights = jnp.asarray(arrays()["weights"])
    share, beta = teacher.get("weight", 1.0), teacher.get("beta", 0.0)
    others = logits_of(jax.tree.map(jnp.asarray, first.reference))
    trained, fixed = split(jax.tree.map(jnp.asarray, first.model), program.trained)

    def minimized(part: Any) -> tuple[jax.Array, jax.Array]:
        logits = logits_of(joined(part, fixed))
        found = textbook(logits, others, weights, beta, teacher.get("topK"))
        log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(arrays()["targets"])[..., None], -1)[
            ..., 0
        ]
        own = -jnp.sum(log_probs * weights)
        if "policy" in objective:  # its ratio is 1, and only its gradient matters
            ratio = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))
            own = -jnp.sum(ratio * jnp.asarray(arrays()["advantages"]) * weights)
        return ((1 - share) * own + share * found) / jnp.sum(weights), found / jnp.sum(weights)

    (_, divergence), gradient = jax.value_and_grad(minimized, has_aux=True)(trained)
    norm = np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(gradient)))
    assert float(metrics.metrics["teacher_divergence"]) == pytest.approx(float(divergence), rel=1e-5)
    assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-4)
    same = jax.tree.map(
        lambda before, after: np.array_equal(before, np.asarray(after)), first.reference, state.reference
    )
    assert all(jax.tree.leaves(same)), "a teacher does not learn"


@pytest.mark.slow
def test_the_mesh_and_the_microbatches_change_a_step_with_a_teacher_only_by_rounding() -> None:
    spec = spec_of({"nextToken": {}}, {"beta": 0.5, "weight": 0.5, "topK": 7})
    whole = build_program(spec, VOCABULARY, mesh_of())
    first = first_state(whole)
    _, metrics = one_step(whole, first)
    divided = spec_of({"nextToken": {}}, {"beta": 0.5, "weight": 0.5, "topK": 7}, trainer={"microbatches": 2})
    _, parted = one_step(build_program(divided, VOCABULARY, mesh_of(fsdp=2, tensor=2)), first, 2)
    assert float(parted.gradient_norm) == pytest.approx(float(metrics.gradient_norm), rel=1e-4)
    assert float(parted.metrics["teacher_divergence"]) == pytest.approx(
        float(metrics.metrics["teacher_divergence"]), rel=1e-5
    )


def test_memory_and_state_have_the_teacher_in_the_type_of_the_products() -> None:
    precision = {"trainer": {"precision": {"compute": "bfloat16"}}}
    taught = spec_of({"nextToken": {}}, {}, **precision)
    plain = spec_of({"nextToken": {}}, None, **precision)
    needs = [least_need(spec, run_mesh(spec)).state_bytes for spec in (taught, plain)]
    shape = taught.objective.teacher.model.shape(320, LENGTH)  # type: ignore[union-attr]
    assert needs[0] - needs[1] == pytest.approx(2 * shape.parameters / 2, abs=1), "two devices share it"
    template = build_program(taught, VOCABULARY, mesh_of()).template.reference
    assert {leaf.dtype for leaf in jax.tree.leaves(template)} == {jnp.dtype("bfloat16")}
    assert build_program(plain, VOCABULARY, mesh_of()).template.reference is None
