"""The watch: its numbers are those of the arrays, layer by layer; the steps between are the program of a run that watches nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.checkpoint.layout import flatten
from halcyon.training.compiled_steps import CompiledSteps
from halcyon.training.state import initial_state
from halcyon.training.watch import HISTOGRAM_EDGES, watched
from halcyon_api.spec.watch import WatchSpec
from tests.trainer.batches import batch_of
from tests.trainer.telemetry.fakes import Scene
from tests.trainer.training.test_program import program_of

LAYERS, EMBED = hax.Axis("layers", 2), hax.Axis("embed", 3)
SGD: dict[str, Any] = {"spec__trainer": {"steps": 4, "batchSize": 1, "sequenceLength": 16}, "spec__data__attendAcrossDocuments": True}


def test_each_number_is_that_of_its_layer() -> None:
    values = np.array([[3.0, 0.0, 4.0], [1e-12, -2.0, 100.0]], np.float32)
    tree = {"w": hax.named(jnp.asarray(values), (LAYERS, EMBED)), "b": hax.named(jnp.zeros(3), EMBED)}
    updates = jax.tree.map(lambda leaf: leaf / 10, tree)
    spec = WatchSpec(what=["parameters", "updates"], histograms=True)
    found = {name: np.asarray(value) for name, value in watched(spec, {"parameters": tree, "updates": updates}).items()}
    np.testing.assert_allclose(found["parameters/norm/w"], np.linalg.norm(values, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["parameters/rms/w"], np.sqrt(np.mean(values**2, axis=1)), rtol=1e-6)
    np.testing.assert_allclose(found["updates/ratio/w"], [0.1, 0.1], rtol=1e-6)
    assert float(found["updates/ratio/b"]) == 0.0
    bins = [0.0, *HISTOGRAM_EDGES, np.inf]
    expected = [np.histogram(np.abs(row), bins)[0] / 3 for row in values]
    np.testing.assert_allclose(found["parameters/histogram/w"], expected, atol=1e-6)
    assert not any(name.startswith("gradients/") for name in found)


def test_only_the_watched_steps_run_the_watched_program() -> None:
    """A run that watches compiles the same program for the other steps, and both programs compute the same step."""
    plain, watching = program_of(**SGD), program_of(**SGD, spec__telemetry__watch={"everySteps": 2})
    assert watching.lower_step(1, 16).as_text() == plain.lower_step(1, 16).as_text()
    tokens = np.arange(16, dtype=np.int32)[None, None]
    batch = batch_of(tokens, np.roll(tokens, -1), np.ones(tokens.shape, np.float32))
    with ThreadPoolExecutor(1) as background:
        steps = CompiledSteps(watching, background, lambda: None)
        ends = [
            steps.of(batch, watched=each)(initial_state(watching.build_state, watching.template), batch, jnp.zeros(1, jnp.int32))
            for each in (False, True)
        ]
    (before, numbers), (after, more) = ends
    assert numbers.watched == {}
    for left, right in zip(jax.tree.leaves(before.model), jax.tree.leaves(after.model), strict=True):
        np.testing.assert_allclose(np.asarray(left), np.asarray(right), rtol=1e-5, atol=1e-7)
    assert {name.split("/", 2)[2] for name in more.watched} == {leaf.path for leaf in flatten(watching.template.model)}
    norms = [np.asarray(value) for name, value in more.watched.items() if name.startswith("gradients/norm/")]
    assert np.sqrt(sum(float(np.sum(norm**2)) for norm in norms)) == pytest.approx(float(more.gradient_norm), rel=1e-5)


def test_a_run_that_ends_before_its_first_watched_step_compiles_no_second_program() -> None:
    assert program_of(**SGD, spec__telemetry__watch={"everySteps": 5}).watched_step is None


def test_the_log_and_the_metrics_have_the_numbers() -> None:
    scene = Scene()
    scene.reporter.watched(
        20,
        {
            "gradients/norm/blocks.up": np.array([3.0, 4.0], np.float32),
            "gradients/histogram/blocks.up": np.ones((2, 20), np.float32),
            "updates/ratio/blocks.up": np.array([0.25, 0.5], np.float32),
        },
    )
    norm, ratio = scene.named("watch")
    assert (norm["of"], norm["statistic"], norm["step"]) == ("gradients", "norm", 20)
    assert (norm["parameters"], norm["values"]) == (["blocks.up"], [[3.0, 4.0]])
    assert ratio["values"] == [[0.25, 0.5]]
    seen = [(one.what, one.statistic, one.path, one.value) for one in scene.reporter.observe().watched]
    assert seen == [("gradients", "norm", "blocks.up", 5.0), ("updates", "ratio", "blocks.up", 0.5)]
