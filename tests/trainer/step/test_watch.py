"""The watch: its numbers are those of the arrays, layer by layer; the steps between are the program of a run that
watches nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import equinox as eqx
import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.checkpoint.layout import flatten
from halcyon.host.errors import BadConfiguration
from halcyon.models import Inputs
from halcyon.models.mixed_stacks import scan_stacks
from halcyon.models.stack import Stack, activation_statistics, empty_slots, with_slots
from halcyon.models.statistics import HISTOGRAM_EDGES, bin_counts, block_of
from halcyon.parallel.axes import shardings
from halcyon.parallel.partition import computing
from halcyon.run.programs import Programs
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon.step.watch import Watched, watched
from halcyon_api.reading import parse_run
from halcyon_api.spec.telemetry import WatchSpec
from tests.api.documents import document
from tests.trainer.run.test_programs import Kept
from tests.trainer.step.test_program import TINY, program_of
from tests.trainer.support.batches import batch_of
from tests.trainer.support.meshes import mesh_of
from tests.trainer.telemetry.fakes import Scene

LAYERS, EMBED = hax.Axis("layers", 2), hax.Axis("embed", 3)
SGD: dict[str, Any] = {
    "spec__trainer": {"steps": 4, "batchSize": 1, "sequenceLength": 16},
    "spec__data__attendAcrossDocuments": True,
}


def test_each_number_is_that_of_its_layer() -> None:
    values = np.array([[3.0, 0.0, 4.0], [1e-12, -2.0, 100.0]], np.float32)
    tree = {"w": hax.named(jnp.asarray(values), (LAYERS, EMBED)), "b": hax.named(jnp.zeros(3), EMBED)}
    updates = jax.tree.map(lambda leaf: leaf / 10, tree)
    spec = WatchSpec(what=["parameters", "updates"], histograms=True)
    arrays = Watched(parameters=tree, gradients=tree, updates=updates, activations={})
    found = {name: np.asarray(value) for name, value in watched(spec, arrays, jnp.int32(0)).items()}
    np.testing.assert_allclose(found["parameters/norm/w"], np.linalg.norm(values, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["parameters/rms/w"], np.sqrt(np.mean(values**2, axis=1)), rtol=1e-6)
    np.testing.assert_allclose(found["updates/ratio/w"], [0.1, 0.1], rtol=1e-6)
    assert float(found["updates/ratio/b"]) == 0.0
    bins = [0.0, *HISTOGRAM_EDGES, np.inf]
    expected = [np.histogram(np.abs(row), bins)[0] / 3 for row in values]
    np.testing.assert_allclose(found["parameters/histogram/w"], expected, atol=1e-6)
    assert not any(name.startswith("gradients/") for name in found)


@pytest.mark.parametrize(
    ("shape", "axes"), [((), None), ((700,), None), ((2, 3, 510), (1, 2)), ((5, 2), (0,)), ((4,), ())]
)
def test_each_magnitude_is_in_the_bin_of_numpy(shape: tuple[int, ...], axes: tuple[int, ...] | None) -> None:
    noise = np.random.default_rng(0)
    values = np.asarray(noise.standard_normal(shape) * 4.0 ** noise.integers(-20, 4, shape), np.float32)
    edges = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        1e-40,
        *HISTOGRAM_EDGES,
        *np.nextafter(np.float32(HISTOGRAM_EDGES), np.float32(0)),
    ]
    values.flat[: len(edges)] = edges[: values.size]
    over = tuple(range(len(shape))) if axes is None else axes
    kept = [axis for axis in range(len(shape)) if axis not in over]
    rows = np.abs(np.transpose(values, (*kept, *over)).reshape(*(shape[axis] for axis in kept), -1))
    limits = np.array([0.0, *HISTOGRAM_EDGES, np.inf])
    expected = np.stack(
        [((rows >= low) & ((rows < high) | (rows == high) & np.isinf(high))).sum(-1) for low, high in pairwise(limits)],
        -1,
    )
    np.testing.assert_array_equal(jax.jit(lambda values: bin_counts(values, axes))(values), expected)
    assert [block_of(size) for size in (1, 255, 352, 257)] == [1, 255, 176, 1]


def test_no_element_of_a_histogram_leaves_its_device() -> None:
    mesh, axis = mesh_of(fsdp=4), EMBED.resize(352)
    tree = {"w": hax.named(jnp.ones((2, 352)), (LAYERS, axis))}
    tree = jax.device_put(tree, shardings(tree, mesh))

    def numbers(tree: Any) -> Any:
        return watched(WatchSpec(what=["parameters"], histograms=True), Watched(tree, tree, tree, {}), jnp.int32(0))

    with computing(mesh):
        compiled = jax.jit(numbers).lower(tree).compile()
    assert "all-reduce" in compiled.as_text()
    assert not any(travel in compiled.as_text() for travel in ("all-gather", "all-to-all", "collective-permute"))
    assert np.asarray(compiled(tree)["parameters/histogram/w"]).sum(-1) == pytest.approx(1.0)


class Scaled(eqx.Module):
    """A block that multiplies its input by a number of its own."""

    factor: hax.NamedArray

    def __call__(self, x: hax.NamedArray) -> hax.NamedArray:
        return x * self.factor


def scaled(*factors: float) -> Stack[Scaled]:
    axis = LAYERS.resize(len(factors))
    return Stack(axis, Scaled(hax.named(jnp.array(factors), (axis,))))


def each(stacks: dict[str, Stack[Scaled]], x: hax.NamedArray, way: str) -> hax.NamedArray:
    """The output of the last block; the blocks of a stack follow each other, or two kinds of them take turns."""
    if way == "forms":
        forms = ("dense", "experts", "dense")
        return scan_stacks(stacks, [(form, None) for form in forms], lambda kind, block, x: (block(x), None), x)[0]
    for stack in stacks.values():
        if way == "scan":
            x = stack.scan(lambda block, x, given: (block(x), None), x)[0]
        else:
            x = stack.scan_kinds(
                (("local", "global") * stack.layers.size)[: stack.layers.size], lambda kind, block, x: block(x), x
            )
    return x


@pytest.mark.parametrize("way", ["scan", "kinds", "forms"])
def test_the_outputs_of_blocks_are_watched_in_their_order(way: str) -> None:
    """In a gradient, over two microbatches, and without a change of the other gradients."""
    stacks = {"dense": scaled(2.0, 0.5), "experts": scaled(3.0)}
    rows = np.array([[1.0, -2.0, 4.0], [0.0, 1e-12, 8.0]], np.float32)

    def loss(stacks: Any, slots: Any, row: jax.Array) -> jax.Array:
        return hax.sum(each(with_slots(stacks, slots), hax.named(row, EMBED), way)).scalar()

    slots = empty_slots(stacks, histograms=True)
    gradients = [jax.grad(loss, (0, 1))(stacks, slots, jnp.asarray(row)) for row in rows]
    plain = [jax.grad(loss)(stacks, {}, jnp.asarray(row)) for row in rows]
    assert all(map(np.array_equal, jax.tree.leaves([one for one, _ in gradients]), jax.tree.leaves(plain)))
    sums = jax.tree.map(lambda *parts: sum(parts), *(one for _, one in gradients))
    found = {name: np.asarray(value) for name, value in activation_statistics(sums).items()}
    factors = {"dense": [2.0, 3.0] if way == "forms" else [2.0, 1.0], "experts": [6.0] if way == "forms" else [3.0]}
    for path, after in factors.items():
        expected = np.array(after)[:, None, None] * rows
        np.testing.assert_allclose(found[f"norm/{path}"], np.sqrt((expected**2).sum((1, 2))), rtol=1e-6)
        np.testing.assert_allclose(found[f"rms/{path}"], np.sqrt((expected**2).mean((1, 2))), rtol=1e-6)
        bins = [np.histogram(np.abs(one), [0.0, *HISTOGRAM_EDGES, np.inf])[0] / rows.size for one in expected]
        np.testing.assert_allclose(found[f"histogram/{path}"], bins, atol=1e-6)


class Unchanged(eqx.Module):
    def __call__(self, x: hax.NamedArray) -> hax.NamedArray:
        return x


def test_only_the_watched_steps_run_the_watched_program() -> None:
    """A run that watches compiles the same program for the other steps, and both programs compute the same step, bit
    for bit.
    """
    watch = {"everySteps": 2, "what": ["gradients", "parameters", "updates", "activations"]}
    plain, watching = program_of(**SGD), program_of(**SGD, spec__telemetry__watch=watch)
    assert watching.lower_step(1, 16).as_text() == plain.lower_step(1, 16).as_text()
    tokens = np.arange(16, dtype=np.int32)[None, None]
    batch = batch_of(tokens, np.roll(tokens, -1), np.ones(tokens.shape, np.float32))
    first = initial_state(watching.build_state, watching.template)
    without_norm: Any = eqx.tree_at(lambda model: model.norm, first.model, Unchanged())
    outputs = np.asarray(without_norm(Inputs(hax.named(jnp.asarray(tokens[0]), ("batch", "position")))).features.array)
    with ThreadPoolExecutor(1) as background:
        steps = Programs(watching, background, Kept())
        ends = [
            steps.of(batch, watched=each)(
                initial_state(watching.build_state, watching.template), batch, jnp.zeros(1, jnp.int32)
            )
            for each in (False, True)
        ]
    (before, numbers), (after, more) = ends
    assert numbers.watched == {}
    assert float(numbers.loss) == float(more.loss)
    for left, right in zip(jax.tree.leaves(before.model), jax.tree.leaves(after.model), strict=True):
        np.testing.assert_array_equal(np.asarray(left), np.asarray(right))
    of_parameters = {name: value for name, value in more.watched.items() if not name.startswith("activations/")}
    assert {name.split("/", 2)[2] for name in of_parameters} == {leaf.path for leaf in flatten(watching.template.model)}
    norms = [np.asarray(value) for name, value in more.watched.items() if name.startswith("gradients/norm/")]
    assert np.sqrt(sum(float(np.sum(norm**2)) for norm in norms)) == pytest.approx(float(more.gradient_norm), rel=1e-5)
    np.testing.assert_allclose(
        np.asarray(more.watched["activations/norm/blocks"]), [np.linalg.norm(outputs)], rtol=1e-5
    )


@pytest.mark.variant
def test_the_activations_of_a_divided_batch_are_those_of_the_tokens_of_the_whole() -> None:
    """Two microbatches on four devices, which hold and compute parts, against one batch on one device."""
    found: list[dict[str, np.ndarray]] = []
    for mesh, microbatches in ((mesh_of(), 1), (mesh_of(data=2, fsdp=2), 2)):
        trainer = {"steps": 4, "batchSize": 8, "sequenceLength": 16, "microbatches": microbatches}
        watch = {"everySteps": 2, "what": ["activations"], "histograms": True}
        run = document(
            spec__model=TINY, spec__trainer=trainer, spec__data__attendAcrossDocuments=True,
            spec__telemetry__watch=watch,
            spec__accelerator={"type": "cpu", "topology": f"1x{mesh.size}"},
            **({"spec__mesh": {"ici": {"data": 2, "fsdp": -1}}} if mesh.size > 1 else {}),
        )  # fmt: skip
        program = build_program(parse_run(run).spec, 259, mesh)
        tokens = np.random.default_rng(0).integers(0, 256, (8, 16), np.int32).reshape(microbatches, -1, 16)
        tokens[..., 10:] = mesh.size  # padding: its outputs are in no statistic
        weights = np.zeros(tokens.shape, np.float32)
        weights[..., :10] = 1
        arrays = batch_of(tokens, np.roll(tokens, -1), weights)
        batch = {name: jax.device_put(array, program.batch_sharding) for name, array in arrays.items()}
        control = jax.device_put(jnp.zeros(mesh.size, jnp.int32), program.control_sharding)
        step = program.compile_step(8, 16, watched=True)
        _, numbers = step(initial_state(program.build_state, program.template), batch, control)
        found.append({name: np.asarray(value) for name, value in numbers.watched.items()})
    assert set(found[0]) == {f"activations/{name}/blocks" for name in ("norm", "rms", "histogram")}
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_model_without_a_stack_has_no_blocks_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("halcyon.step.program.stacks_of", lambda model: {})
    with pytest.raises(
        BadConfiguration, match=r"spec.telemetry.watch.what: the model has no .*Stack, so its blocks cannot be watched"
    ):
        program_of(**SGD, spec__telemetry__watch={"everySteps": 2, "what": ["activations"]})


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
