"""Ten steps on any mesh, with any number of microbatches, have the losses of one device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.data.loader import padded_rows
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon_api.reading import parse_run
from tests.api.documents import document
from tests.trainer.exactness.page import losses_case
from tests.trainer.parallel.mesh_cases import FEW, MODELS, MORE, RECOMPUTED
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_from

pytestmark = pytest.mark.slow

STEPS, ROWS, LENGTH = 10, 16, 12
ALONE = "fsdp 1"
"""The mesh of one device."""


@functools.cache
def losses(
    model: str,
    on: str = ALONE,
    microbatches: int = 1,
    kind: str = "cpu",
    compute: str = "float32",
    products: str | None = None,
    remat: str = "none",
    rows: int = ROWS,
) -> list[float]:
    """Losses of a run on a mesh; see `mesh_from`. On v5e the memory suffices to gather the parameters."""
    precision = {"compute": compute} | ({"products": products} if products else {})
    settings = {
        "batchSize": rows,
        "sequenceLength": LENGTH,
        "microbatches": microbatches,
        "remat": remat,
        "precision": precision,
    }
    run = document(
        spec__accelerator={"type": kind, "topology": {"v5e": "2x4", "v7x": "2x2x1"}.get(kind, "1x8"), "slices": 1},
        spec__model=MODELS[model],
        spec__optimizer={"learningRate": 0.01, "adamw": {}},
        spec__trainer={"steps": STEPS} | settings,
    )
    mesh = mesh_from(on)
    program = build_program(parse_run(run).spec, 60, mesh)
    state, step = initial_state(program.build_state, program.template), program.compile_step(rows, LENGTH)
    padding = microbatches * padded_rows(rows, microbatches, program.batch_sharding) - rows
    control = jax.device_put(np.zeros(mesh.size, np.int32), program.control_sharding)
    found = []
    for number in range(STEPS):
        noise = np.random.default_rng(number)
        tokens = noise.integers(0, 60, (ROWS, LENGTH + 1))
        # Weights and documents differ between rows, and some weights are 0, so a mean of means would give another loss.
        weights, documents = (
            noise.random((ROWS, LENGTH)) > np.linspace(0, 0.9, ROWS)[:, None],
            np.cumsum(noise.random((ROWS, LENGTH)) < 0.2, 1),
        )
        arrays = (
            tokens[:, :-1].astype(np.int32),
            tokens[:, 1:].astype(np.int32),
            weights.astype(np.float32),
            documents.astype(np.int32),
        )
        filled = (np.pad(each[:rows], ((0, padding), (0, 0))) for each in arrays)
        parts = (jax.device_put(each.reshape(microbatches, -1, LENGTH), program.batch_sharding) for each in filled)
        state, metrics = step(state, batch_of(*parts), control)
        found.append(float(metrics.loss))
    assert {leaf.dtype for leaf in jax.tree.leaves(state.model)} == {jnp.dtype("float32")}
    return found


@pytest.mark.parametrize(
    ("model", "on", "microbatches", "kind"),
    [*FEW, *(pytest.param(*each, marks=pytest.mark.variant) for each in MORE)],
)
def test_losses_are_those_of_one_device(
    model: str, on: str, microbatches: int, kind: str, measured: Callable[..., None]
) -> None:
    difference = float(np.abs(np.subtract(losses(model, on, microbatches, kind), losses(model))).max())
    assert difference <= 1e-5
    measured("losses", losses_case(model, on, microbatches, kind), difference)


@pytest.mark.parametrize(
    ("model", "on", "microbatches", "rows"),
    [("mixtral", "fsdp 2 x expert 2", 2, 9), ("gpt2", "data 2 x fsdp 2 x tensor 2", 3, 11), ("llama", "fsdp 8", 1, 3)],
)
def test_losses_of_a_batch_that_the_devices_do_not_divide_are_those_of_one_device(
    model: str, on: str, microbatches: int, rows: int
) -> None:
    """The penalties of the routers, which change later losses, do not count the rows of padding."""
    np.testing.assert_allclose(losses(model, on, microbatches, rows=rows), losses(model, rows=rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("remat", "on", "microbatches"),
    [
        pytest.param("attention", "replica 2 x fsdp 2 x tensor 2", 2, marks=pytest.mark.variant),
        *(
            pytest.param(remat, on, microbatches, marks=pytest.mark.variant)
            for remat in RECOMPUTED
            for on, microbatches in (("fsdp 2 x context 2 x tensor 2", 1), ("data 2 x fsdp 4", 2))
        ),
    ],
)
def test_remat_policies_have_the_losses_of_one_device_that_keeps_all(remat: str, on: str, microbatches: int) -> None:
    np.testing.assert_allclose(
        losses("four layers", on, microbatches, remat=remat), losses("four layers"), rtol=0, atol=1e-5
    )


def test_losses_in_narrow_compute_are_about_those_of_one_device() -> None:
    found = losses("gpt2", "replica 2 x fsdp 2 x tensor 2", 2, "v5e", "bfloat16")
    np.testing.assert_allclose(found, losses("gpt2", compute="bfloat16"), rtol=0.01)


@pytest.mark.variant
@pytest.mark.parametrize("products", ["int8", "float8"])
def test_losses_with_products_of_8_bits_are_about_those_of_one_device_and_of_wide_products(products: str) -> None:
    kind = "v7x" if products == "float8" else "v5e"
    one = losses("llama", kind=kind, products=products)
    np.testing.assert_allclose(losses("llama", "fsdp 4 x tensor 2", 2, kind, products=products), one, rtol=2e-3)
    wide = losses("llama")
    np.testing.assert_allclose(one, wide, rtol=0.01)
    assert one != wide
