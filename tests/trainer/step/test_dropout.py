"""Dropout: a pure function of seed, step and row, in training steps alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from haliax import Axis

from halcyon.host.errors import BadConfiguration
from halcyon.models import Inputs
from halcyon.models.axes import BATCH, POSITION
from halcyon.models.dropout import dropped, site_seeds, with_sites
from halcyon.models.parts.attention_choice import CannotServe, Target, attending
from halcyon.step.objectives.objective import ROW_SEEDS
from halcyon.step.overrides import Overrides
from halcyon.step.program import Program, build_program
from halcyon.step.state import initial_state
from halcyon_api.ends import ExitCode
from halcyon_api.spec.trainer import DropoutSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec
from tests.trainer.parallel.mesh_cases import BACKPACK, DEEPSEEK, GPT2, LLAMA, MODELS, NANOCHAT
from tests.trainer.support.meshes import mesh_of
from tests.trainer.support.process_groups import TrainerProcesses, run_document, start_processes

RATES = {"embedding": 0.1, "residual": 0.2, "attention": 0.3}
ROWS, LENGTH, VOCABULARY = 8, 8, 60


def spec_of(rates: dict[str, float] | None, model: dict[str, Any] = LLAMA, **trainer: Any) -> TrainingRunSpec:
    dropout = {} if rates is None else {"dropout": rates}
    sizes = {"steps": 10, "batchSize": ROWS, "sequenceLength": LENGTH}
    optimizer = {"learningRate": 0.01, "schedule": {"constant": {}}, "adamw": {}}
    return minimal_spec(spec__model=model, spec__optimizer=optimizer, spec__trainer=sizes | dropout | trainer)


def batch_of(rows: int = ROWS) -> dict[str, np.ndarray]:
    tokens, targets = np.random.default_rng(0).integers(0, VOCABULARY, (2, ROWS, LENGTH)).astype(np.int32)
    ones, whole = np.ones(tokens.shape, np.float32), np.zeros_like(tokens)
    arrays = {"tokens": tokens, "targets": targets, "weights": ones, "segments": whole}
    return {name: np.pad(array, ((0, rows - ROWS), (0, 0))) for name, array in arrays.items()}


def losses(rates: dict[str, float] | None, microbatches: int = 1, rows: int = ROWS, **mesh: int) -> list[float]:
    """Of three steps; the first parameters are those of one device."""
    first = build_program(spec_of(rates), VOCABULARY, mesh_of())
    program = build_program(spec_of(rates, microbatches=microbatches), VOCABULARY, mesh_of(**mesh))
    state: Any = jax.tree.map(np.asarray, initial_state(first.build_state, first.template))
    parts = {name: jnp.asarray(each.reshape(microbatches, -1, LENGTH)) for name, each in batch_of(rows).items()}
    found = []
    with program.tracing():
        step = jax.jit(program.train_step)
        for _ in range(3):
            state, metrics = step(state, parts, jnp.zeros(program.mesh.size, jnp.int32))
            found.append(float(metrics.loss))
    return found


@pytest.mark.slow
def test_losses_are_those_of_one_device_on_every_mesh_and_with_any_microbatches() -> None:
    one = losses(RATES)
    assert np.abs(np.subtract(one, losses(None))).min() > 1e-3
    for microbatches, rows, mesh in (
        (2, 8, {"fsdp": 4}),
        (4, 8, {"tensor": 2}),
        (1, 12, {"data": 2, "fsdp": 2}),
    ):
        np.testing.assert_allclose(losses(RATES, microbatches, rows, **mesh), one, rtol=0, atol=1e-5)
    without = {"embedding": 0.1, "residual": 0.2}
    np.testing.assert_allclose(losses(without, 1, 8, fsdp=2, context=2), losses(without), rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    def started(name: str, attempt: int = 1) -> TrainerProcesses:
        run = run_document(tmp_path / name, slices=1, steps=60, dropout=RATES)
        run["spec"]["checkpoint"]["save"] = {"everySteps": 5}
        return start_processes(run, tmp_path / f"{name}-{attempt}", attempt=attempt)

    calm, killed = started("calm"), started("killed")
    killed.leader.wait_for(lambda events: any(event.get("step", 0) >= 20 for event in events))
    killed.signal(signal.SIGKILL, 0)
    assert calm.wait() == [ExitCode.DONE]
    killed.leader.wait()
    resumed = started("killed", attempt=2)
    assert resumed.wait() == [ExitCode.DONE]
    expected, found = calm.leader.losses(), resumed.leader.losses()
    assert 5 < min(found) <= 60 == max(found)
    assert found == {step: expected[step] for step in found}


def test_a_mask_has_its_rate_and_keeps_the_mean_and_its_bits_on_a_mesh() -> None:
    x = hax.ones((Axis(BATCH, 16), Axis(POSITION, 64), Axis("embed", 128)))
    seeds = site_seeds(jnp.arange(16, dtype=jnp.uint32), "site")
    found = dropped(x, seeds, 0.25).array
    assert set(np.unique(found)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
    share = float(jnp.mean(found == 0))
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / found.size)
    assert len({row.tobytes() for row in np.asarray(found).reshape(-1, 128)}) == 16 * 64, (
        "no two positions share a mask"
    )
    mesh = mesh_of(fsdp=2, context=2, tensor=2)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp", "context", "tensor"))
    on_mesh = jax.jit(lambda x, seeds: dropped(hax.named(x, found_axes), seeds, 0.25).array, out_shardings=sharding)
    found_axes = x.axes
    np.testing.assert_array_equal(np.asarray(on_mesh(jax.device_put(x.array, sharding), seeds)), np.asarray(found))
    part = dropped(x[BATCH, hax.ds(4, 4)], hax.named(seeds.array[4:8], (BATCH,)), 0.25)
    np.testing.assert_array_equal(part.array, found[4:8])


def program_of(rates: dict[str, float] | None, **fields: Any) -> Program:
    return build_program(spec_of(rates, **fields), VOCABULARY, mesh_of())


def test_a_rate_of_0_and_evaluations_have_the_program_of_a_run_without_dropout() -> None:
    plain, zero, dropping = program_of(None), program_of({"residual": 0.0}), program_of(RATES)
    step = plain.lower_step(ROWS, LENGTH).as_text()
    assert zero.lower_step(ROWS, LENGTH).as_text() == step
    assert dropping.lower_step(ROWS, LENGTH).as_text() != step
    assert jax.tree.structure(dropping.template) == jax.tree.structure(plain.template)
    batch = {name: jax.ShapeDtypeStruct((ROWS, LENGTH), dtype) for name, dtype in plain.objective.fields.items()}
    texts = [
        jax.jit(one.objective, static_argnums=(2, 3)).lower(plain.template.model, batch, None, None).as_text()
        for one in (plain, dropping)
    ]
    assert texts[0] == texts[1]


def test_seeds_are_those_of_seed_step_and_row() -> None:
    def seeds(seed: int, step: int, parts: tuple[int, int]) -> np.ndarray:
        gradients = program_of(RATES, seed=seed).gradients
        return np.asarray(
            gradients.seeded({"tokens": jnp.zeros(parts, jnp.int32)}, jnp.asarray(step))[ROW_SEEDS]
        ).ravel()

    one = seeds(1, 5, (1, 8))
    assert len({*one.tolist(), *seeds(1, 6, (1, 8)).tolist(), *seeds(2, 5, (1, 8)).tolist()}) == 24
    np.testing.assert_array_equal(seeds(1, 5, (4, 2)), one)
    np.testing.assert_array_equal(seeds(1, 5, (2, 8))[:8], one, "rows of padding follow the others")


@pytest.mark.parametrize(
    "model", [LLAMA, GPT2, BACKPACK, NANOCHAT, DEEPSEEK, MODELS["qwen3Next"]], ids=lambda one: one["family"]
)
@pytest.mark.parametrize("site", RATES)
def test_each_site_of_each_form_of_decoder_changes_the_features(model: dict[str, Any], site: str) -> None:
    program = program_of(None, model=model)
    built = program.build_state().model
    grown = jax.tree.map(lambda x: x + 0.1 if x.ndim > 2 else x, built)  # nanochat begins with projections of 0
    inputs = Inputs(hax.named(jnp.arange(2 * LENGTH).reshape(2, LENGTH), (BATCH, POSITION)))
    seeds = jnp.arange(2, dtype=jnp.uint32)
    plain = grown(inputs).features.array
    found = with_sites(grown, DropoutSpec(**{site: 0.5}), seeds)(inputs).features.array
    assert np.isfinite(np.asarray(found)).all()
    assert (np.abs(np.asarray(found - plain)).max(axis=(1, 2)) > 1e-5).all()


@pytest.mark.parametrize(
    ("fields", "mesh", "sentence"),
    [
        ({"attention": "blockwise"}, {}, "attention blockwise drops no weights; set trainer.attention: auto"),
        (
            {},
            {"ici": {"fsdp": 1, "context": 2}},
            "a mesh with a context axis drops no weights; set mesh.ici.context: 1",
        ),
    ],
)
def test_attention_that_cannot_drop_is_rejected(fields: dict[str, Any], mesh: dict[str, Any], sentence: str) -> None:
    spec = spec_of(RATES, **fields)
    spec = minimal_spec(spec__trainer=spec.document()["trainer"], **({"spec__mesh": mesh} if mesh else {}))
    assert ("spec.trainer.dropout.attention", sentence) in [(one.field, one.message) for one in find_problems(spec)]


def test_a_kernel_never_leaves_dropout_out() -> None:
    program = program_of(None)
    model = with_sites(program.build_state().model, DropoutSpec(attention=0.5), jnp.arange(2, dtype=jnp.uint32))
    inputs = Inputs(hax.zeros((Axis(BATCH, 2), Axis(POSITION, LENGTH)), dtype=jnp.int32))
    with (
        attending("blockwise", Target("cpu")),
        pytest.raises(CannotServe, match=r"only reference has spec\.trainer\.dropout"),
    ):
        model(inputs)


def test_a_model_without_sites_is_rejected() -> None:
    module, rule = eqx.nn.Linear(2, 1, key=jax.random.key(0)), optax.sgd(1.0)
    given = Overrides(model=module, optimizer=rule, objective=lambda model, batch: 0.0)
    with pytest.raises(BadConfiguration, match=r"spec\.trainer\.dropout: only the models of Halcyon's families"):
        build_program(spec_of(RATES), VOCABULARY, mesh_of(), overrides=given)
