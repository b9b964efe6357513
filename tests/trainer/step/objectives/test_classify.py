"""Labels of texts: logits, loss and gradients are those of transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import haliax as hax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.data.formats import build_formatter
from halcyon.data.open import inspect_dataset
from halcyon.data.sources import SourceRow
from halcyon.host.errors import BadConfiguration
from halcyon.inference.engine import Engine
from halcyon.inference.likelihood import Likelihoods
from halcyon.models import build_model
from halcyon.models.families.lookup import published_of_config
from halcyon.models.parameters import parameter_count
from halcyon.models.published.config import ConfigReader
from halcyon.step.objectives.classify import Classify
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon.weights.layout import WeightLayout, leaf_shapes
from halcyon_api.spec.adapter import AdapterSpec
from halcyon_api.spec.model import read_model
from halcyon_api.spec.sources import FormatSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec
from tests.arrays import load_arrays
from tests.families import SMALL_FAMILIES, TINIEST
from tests.trainer.models.parity import FOLDER
from tests.trainer.support.meshes import mesh_of

BYTES = load(TokenizerDefinition("byte"))
FAST = ("llama", "modernbert-untied")
NAMES = sorted(path.stem for path in (FOLDER / "classifiers").glob("*.npz"))
OBJECTIVE = Classify(compute_dtype=jnp.dtype("float32"))


def loaded(name: str, folder: str = "classifiers", length: int = 14) -> tuple[Any, Any, dict[str, np.ndarray]]:
    arrays = load_arrays(FOLDER / folder / f"{name}.npz")
    config = ConfigReader.parse(arrays["config"].tobytes())
    form = published_of_config(config)
    spec = form.section(form.completed(config))
    sizes = hax.Axis("vocab", config.integer("vocab_size")), hax.Axis("position", length)
    shapes = jax.eval_shape(lambda: build_model(spec, *sizes, key=jax.random.key(0)))
    layout = WeightLayout(form.tensors(spec), leaf_shapes(shapes))
    weights = {key.removeprefix("weight "): one for key, one in arrays.items() if key.startswith("weight ")}
    tensors = {str(layout.canonical(key)): one.astype(np.float32) for key, one in weights.items()}
    layout.check({key: one.shape for key, one in tensors.items()})
    rows = lambda key, start, stop: tensors[key][start:stop]  # noqa: E731
    leaves = [
        jnp.asarray(layout.read(leaf.path, tuple(slice(0, size) for size in leaf.shape), rows))
        for leaf in layout.leaves.values()
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves), layout, arrays


def batch_of(arrays: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The rows as `halcyon.data` makes them."""
    tokens, lengths = arrays["tokens"], arrays["lengths"]
    place = np.arange(tokens.shape[1])
    last = place == lengths[:, None] - 1
    return {
        "tokens": jnp.asarray(tokens),
        "segments": jnp.asarray(1 + (place >= lengths[:, None]), jnp.int32),
        "targets": jnp.asarray(np.where(last, arrays["labels"][:, None], 5), jnp.int32),
        "weights": jnp.asarray(last, jnp.float32),
    }


@pytest.mark.parametrize("name", [pytest.param(one, marks=() if one in FAST else pytest.mark.variant) for one in NAMES])
def test_loss_and_every_gradient_are_those_of_transformers(name: str, measured: Callable[..., None]) -> None:
    model, layout, arrays = loaded(name)
    batch = batch_of(arrays)

    def loss(model: Any) -> Any:
        sums = OBJECTIVE(model, batch, None, None)
        return sums.loss / sums.weight, sums

    (value, sums), gradient = jax.jit(
        jax.value_and_grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": "0"}
    )(model)
    assert float(value) == pytest.approx(float(arrays["loss"]), rel=1e-5)
    right = np.argmax(arrays["logits"], 1) == arrays["labels"]
    assert float(sums.metrics["accuracy"]) == right.sum()
    measured("gradients of classifiers", name, largest_error(layout, gradient, arrays))


def largest_error(layout: Any, gradient: Any, arrays: dict[str, np.ndarray]) -> float:
    """Of a gradient, relative to the largest number of its tensor in a golden; at most 1e-5."""
    flat = {path: np.asarray(leaf) for path, leaf in zip(layout.leaves, jax.tree.leaves(gradient), strict=True)}
    expected = {key.removeprefix("gradient "): one for key, one in arrays.items() if key.startswith("gradient ")}
    largest, errors = max(float(np.abs(one).max()) for one in expected.values()), {}
    for key, tensor in layout.tensors.items():
        if not tensor.views:
            continue
        found = tensor.values(lambda path, region: flat[path][region])
        error = np.abs(found - expected[key]).max()
        errors[key] = float(error) / max(float(np.abs(expected[key]).max()), 0.01 * largest)
        assert errors[key] <= 1e-5, key
    assert errors.keys() == expected.keys()
    return max(errors.values())


ROWS = [("a film", "bad"), ("fine", 1), ("a long film of hours", "good"), ("sad", "0"), ("great", "good")]


def spec_of(folder: Path, **changes: Any) -> TrainingRunSpec:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps({'text': text, 'label': label})}\n" for text, label in ROWS))
    source = {"name": "films", "jsonl": {"paths": [str(path)]}, "format": {"text": {"labelField": "label"}}}
    sections: dict[str, Any] = {
        "model": TINIEST | {"labels": ["bad", "good"]},
        "objective": {"classify": {}},
        "data": {"sources": [source], "validation": {"fraction": 0.0}, "order": {"sequential": {}}},
        "trainer": {"steps": 1, "batchSize": 5, "sequenceLength": 12, "evaluation": {"everySteps": 0}},
        "tokenizer": {"byte": {}},
        "checkpoint": {"root": f"file://{folder}/root"},
    }
    return minimal_spec(**{f"spec__{name}": part for name, part in sections.items()} | changes)


def test_a_row_is_one_text_and_its_last_token_has_the_label(tmp_path: Path) -> None:
    dataset, _ = inspect_dataset(spec_of(tmp_path), process="test")
    found = dataset.examples(dataset.train_rows(0))
    order = [
        next(n for n, (text, _) in enumerate(ROWS) if bytes(row[1:5].astype("u1")).startswith(text[:3].encode()))
        for row in found.tokens
    ]
    assert sorted(order) == [0, 1, 2, 3, 4]
    for number, tokens, targets, weights, segments in zip(order, *list(vars(found).values())[:4], strict=True):
        text, label = ROWS[number]
        length = min(len(text) + 1, 12)  # the byte tokenizer begins a text with a token
        assert bytes(tokens[1:length].astype("u1")) == text.encode()[: length - 1]
        assert np.flatnonzero(weights).tolist() == [length - 1]
        assert (weights[length - 1], targets[length - 1]) == (1, int(label in ("good", 1)))
        assert (segments == 1).tolist() == (np.arange(12) < length).tolist()


def test_a_label_that_the_model_does_not_have_is_refused(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, spec__model=TINIEST | {"labels": ["awful", "good"]})
    with pytest.raises(
        BadConfiguration, match=r"labelField: a text has the label 'bad', which spec.model.labels lacks"
    ):
        inspect_dataset(spec, process="test")
    spec = spec_of(tmp_path, spec__model=TINIEST | {"labels": ["bad", "good", "None"]})
    layout: Any = inspect_dataset(spec, process="test")[0].sources[0].layout
    assert layout.classes.tolist() == [0, 1, 1, 0, 1]
    row = SourceRow("rows.jsonl", 3, {"text": "fine"})
    with pytest.raises(BadConfiguration, match=r"format.text.labelField: row 3 .* has no field 'label', only text"):
        build_formatter(FormatSpec.model_validate({"text": {"labelField": "label"}}), BYTES, where="format")([row])


LABELS = TINIEST | {"labels": ["bad", "good"]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spec__model": TINIEST}, "tells labels apart; name at least two"),
        ({"spec__model": TINIEST | {"labels": ["a", "a"]}}, "a label is there twice"),
        ({"spec__telemetry": {"sample": {"prompt": "a", "everySteps": 5}}}, "cannot write or score a text"),
        ({"spec__model__numNextnPredictLayers": 1}, "objective.classify does not train these layers"),
        ({"spec__data__sources": [{"name": "one", "text": {"paths": ["/a"]}}]}, "needs the label of each text"),
        ({"spec__trainer__evaluation": {"everySteps": 1, "best": {"metric": "bitsPerByte"}}}, "no bits per byte"),
    ],
)
def test_what_does_not_belong_to_labels_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    assert list(find_problems(spec_of(tmp_path))) == []
    (problem,) = find_problems(spec_of(tmp_path, **changes))
    assert sentence in problem.message


def test_a_reward_model_has_one_label() -> None:
    source = {"name": "pairs", "jsonl": {"paths": ["/a"]}, "format": {"preference": {}}}
    changes = {"spec__objective": {"preference": {"reward": {}}}, "spec__data__sources": [source]}
    assert list(find_problems(minimal_spec(spec__model=TINIEST | {"labels": ["reward"]}, **changes))) == []
    for labels in (["good", "bad"], None):
        model = TINIEST | ({} if labels is None else {"labels": labels})
        (problem,) = find_problems(minimal_spec(spec__model=model, **changes))
        assert "learns one score; name one label, such as [reward]" in problem.message


def test_a_model_with_labels_predicts_no_tokens(tmp_path: Path) -> None:
    plain = {"spec__objective": {"nextToken": {}}, "spec__data": minimal_spec().data.document()}
    assert [
        "a model with labels predicts no tokens" in one.message for one in find_problems(spec_of(tmp_path, **plain))
    ] == [True]
    labelled = [one.message for one in find_problems(spec_of(tmp_path, spec__objective={"nextToken": {}}))]
    assert any("labels are for objective.classify" in one for one in labelled)
    for user in (Engine, Likelihoods):
        with pytest.raises(BadConfiguration, match=r"a model with labels cannot write or score a text"):
            user(loaded("llama")[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_shape_counts_the_parameters(name: str) -> None:
    model, _, arrays = loaded(name)
    config = ConfigReader.parse(arrays["config"].tobytes())
    form = published_of_config(config)
    shape = form.section(form.completed(config)).shape(model.vocab.size, model.max_position.size)
    assert shape.parameters == parameter_count(model)


def losses(folder: Path, microbatches: int = 1, adapter: bool = False, **mesh: int) -> list[float]:
    """Of two steps, with their accuracies; the first parameters are those of one device."""
    trainer = {"steps": 9, "batchSize": 4, "sequenceLength": 14, "microbatches": microbatches}
    spec = spec_of(folder, spec__trainer=trainer)
    if adapter:
        spec = spec.but(adapter=AdapterSpec.model_validate({"lora": {"rank": 2}}))
    spec = spec.but(model=read_model(SMALL_FAMILIES["qwen3"] | {"labels": ["a", "b", "c"]}))
    first, program = (build_program(spec, 29, mesh_of(**sizes)) for sizes in ({}, mesh))
    state: Any = jax.tree.map(np.asarray, initial_state(first.build_state, first.template))
    before = np.asarray(state.model.score.weight.array)
    arrays = load_arrays(FOLDER / "classifiers" / "llama.npz")
    rows = {name: np.concatenate([one, one[:1]]) for name, one in batch_of(arrays).items()}
    parts = {name: one.reshape(microbatches, -1, one.shape[1]) for name, one in rows.items()}
    found = []
    with program.tracing():
        step = jax.jit(program.train_step)
        for _ in range(2):
            state, metrics = step(state, parts, jnp.zeros(program.mesh.size, jnp.int32))
            found += [float(metrics.loss), float(metrics.metrics["accuracy"])]
    assert not np.array_equal(before, state.model.score.weight.array), "the head is trained"
    return found


@pytest.mark.slow
def test_losses_are_those_of_one_device_on_a_mesh_and_with_microbatches(tmp_path: Path) -> None:
    one = losses(tmp_path)
    np.testing.assert_allclose(losses(tmp_path, 2, fsdp=2, context=2, tensor=2), one, rtol=0, atol=1e-5)
    assert losses(tmp_path, adapter=True)[0] == one[0]
