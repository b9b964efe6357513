"""Vectors of texts by contrast: loss and gradients are those of sentence-transformers' formula and transformers' models,
in one microbatch and in several.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from halcyon.data.formats import build_formatter
from halcyon.data.open import inspect_dataset
from halcyon.data.sources import SourceRow
from halcyon.host.errors import BadConfiguration
from halcyon.models.parameters import split
from halcyon.step.gradients import Gradients
from halcyon.step.objectives.contrastive import Contrastive
from halcyon.step.program import build_program
from halcyon.step.state import initial_state
from halcyon.step.validation import make_evaluation_step
from halcyon.tokenizer import TokenizerDefinition, load
from halcyon_api.spec.objective import ContrastiveSpec
from halcyon_api.spec.sources import FormatSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import find_problems
from tests.api.documents import minimal_spec
from tests.families import SMALL_FAMILIES
from tests.trainer.step.objectives.test_classify import largest_error, loaded
from tests.trainer.support.labels import paired
from tests.trainer.support.meshes import mesh_of

LENGTH = 20


def batch_of(arrays: dict[str, np.ndarray], microbatches: int) -> dict[str, jax.Array]:
    """The rows as `halcyon.data` makes them; and one that only fills the batch in each microbatch."""
    rows = {name: np.zeros((len(arrays["tokens"]), LENGTH), np.int32) for name in ("tokens", "segments", "positions")}
    for row, (texts, lengths) in enumerate(zip(arrays["tokens"], arrays["lengths"], strict=True)):
        ends = [0, *np.cumsum(lengths).tolist()]
        for number, (start, end) in enumerate(itertools.pairwise(ends)):
            rows["tokens"][row, start:end] = texts[number, : end - start]
            rows["positions"][row, start:end] = np.arange(end - start)
            rows["segments"][row, start:end] = 1 + number
        rows["segments"][row, ends[-1] :] = 1 + len(lengths)
    parts = {name: array.reshape(microbatches, -1, LENGTH) for name, array in rows.items()}
    filling = {name: np.full_like(array[:, :1], name == "segments") for name, array in parts.items()}
    return {name: jnp.asarray(np.concatenate([array, filling[name]], axis=1)) for name, array in parts.items()}


@pytest.mark.parametrize(
    ("name", "microbatches"),
    [
        ("llama", 1),
        ("llama", 4),
        ("modernbert-untied", 2),
        pytest.param("modernbert-untied", 1, marks=pytest.mark.variant),
        pytest.param("modernbert", 4, marks=pytest.mark.variant),
    ],
)
def test_loss_and_every_gradient_are_those_of_sentence_transformers(
    name: str, microbatches: int, measured: Callable[..., None]
) -> None:
    model, layout, arrays = loaded(name, "embedders", LENGTH)
    pooling: Any = str(arrays["pooling"])
    objective = Contrastive(ContrastiveSpec(pooling=pooling), 3, compute_dtype=jnp.dtype("float32"))
    batch, (part, fixed) = batch_of(arrays, microbatches), split(model, None)

    def computed(part: Any, batch: Any) -> Any:
        sums, (gradient, _) = Gradients(objective).of_batch((part, {}), (fixed, None), batch, jnp.zeros((), jnp.int32))
        share = 1 / sums.weight
        evaluated = make_evaluation_step(objective, None)(model, batch)
        return sums, jax.tree.map(lambda total: total * share, gradient), evaluated

    options = {"xla_backend_optimization_level": "0"}
    sums, gradient, evaluated = jax.jit(computed, compiler_options=options)(part, batch)
    for found in (sums.loss / sums.weight, evaluated.nats / evaluated.weight):
        assert float(found) == pytest.approx(float(arrays["loss"]), rel=1e-5)
    assert float(sums.metrics["accuracy"]) == float(evaluated.right) == float(arrays["right"])
    assert float(sums.weight) == len(arrays["lengths"])
    measured("gradients of embedders", f"{name} {microbatches}", largest_error(layout, gradient, arrays))


def spec_of(folder: Path, trainer: dict[str, Any] | None = None, **changes: Any) -> TrainingRunSpec:
    sections: dict[str, Any] = paired(folder / "texts")
    sections["trainer"] = {"steps": 2, "batchSize": 8, "sequenceLength": 40} | (trainer or {})
    sections["checkpoint"] = {"root": f"file://{folder}/root"}
    return minimal_spec(**{f"spec__{name}": part for name, part in sections.items()} | changes)


def test_a_row_is_a_query_with_its_texts(tmp_path: Path) -> None:
    """A text that does not fit loses its end: each has at least a third of the row, and what the others leave."""
    dataset, _ = inspect_dataset(spec_of(tmp_path, {"sequenceLength": 64}), process="test")
    rows = map(json.loads, (tmp_path / "texts" / "rows.jsonl").read_text().splitlines())
    given = [
        (f"query: {row['anchor']}", f"passage: {row['positive']}", f"passage: {row['negatives'][0]}") for row in rows
    ]
    found, cut = dataset.examples(dataset.train_rows(0)), set[bool]()
    for tokens, segments in zip(found.tokens, found.segments, strict=True):
        texts = [bytes(tokens[segments == number][1:].astype("u1")).decode() for number in (1, 2, 3)]
        whole = next(row for row in given if all(map(str.startswith, row, texts)) and len(row[0]) - len(texts[0]) < 20)
        assert sum(map(len, texts)) + 3 == min(64, sum(map(len, whole)) + 3)
        assert all(len(text) + 1 >= min(64 // 3, len(one) + 1) for text, one in zip(texts, whole, strict=True))
        assert np.all(np.diff(segments) >= 0), "the texts stand one after the other"
        cut.add(tuple(texts) != whole)
    assert cut == {True, False}


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"query": "a"}, "has no field 'anchor', only query; name the field"),
        ({"anchor": "a", "positive": "", "n": ["c", "d"]}, "has not 4 texts in the fields anchor, positive, n; name"),
        ({"anchor": "a", "positive": 5, "n": ["c", "d"]}, "has not 4 texts in the fields"),
        ({"anchor": "a", "positive": ["b"], "n": "c"}, "has not 4 texts in the fields"),
    ],
)
def test_a_row_without_its_texts_is_refused(row: dict[str, Any], sentence: str) -> None:
    spec = FormatSpec.model_validate({"pair": {"negativeFields": ["n"], "negatives": 2}})
    formatter = build_formatter(spec, load(TokenizerDefinition("byte")), where="format")
    with pytest.raises(BadConfiguration, match=rf"format.pair: row 3 .* {sentence}"):
        formatter([SourceRow("rows.jsonl", 3, row)])
    whole = {"anchor": "a", "positive": ["b", "x"], "n": ["c", "d", "e"]}
    found = formatter([SourceRow("rows.jsonl", 3, whole)] * 2)
    assert [(one.row, one.tokens[1:].tolist()) for one in found] == [(row, [b]) for row in (0, 1) for b in b"abcd"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"spec__objective": {"contrastive": {"pooling": "cls"}}}, "the first token of a decoder sees no other one"),
        ({"spec__objective": {"nextToken": {}}}, "queries with texts need an objective that compares them"),
        ({"spec__data__sources": [{"name": "one", "text": {"paths": ["/a"]}}]}, "and text has none; set format pair"),
        ({"spec__data__attendAcrossDocuments": True}, "a text must not see the other one"),
        ({"spec__telemetry": {"sample": {"prompt": "a", "everySteps": 5}}}, "cannot write or score a text"),
        ({"trainer": {"sequenceLength": 2}}, "a row holds 3 texts; raise it"),
        ({"spec__trainer__evaluation": {"everySteps": 1, "best": {"metric": "bitsPerByte"}}}, "no bits per byte"),
    ],
)
def test_what_does_not_belong_to_vectors_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    assert list(find_problems(spec_of(tmp_path))) == []
    (problem,) = find_problems(spec_of(tmp_path, **changes))
    assert sentence in problem.message


def losses(folder: Path, microbatches: int = 1, **mesh: int) -> list[float]:
    """Of two steps, with their accuracies; the first parameters are those of one device."""
    spec = spec_of(folder, {"microbatches": microbatches}, spec__model=SMALL_FAMILIES["qwen3"])
    dataset, _ = inspect_dataset(spec, process="test")
    first, program = (build_program(spec, 259, mesh_of(**sizes)) for sizes in ({}, mesh))
    state: Any = jax.tree.map(np.asarray, initial_state(first.build_state, first.template))
    found = []
    with program.tracing():
        step = jax.jit(program.train_step)
        for number in range(2):
            rows = dataset.examples(dataset.train_rows(number))
            parts = {name: getattr(rows, name).reshape(microbatches, -1, 40) for name in program.objective.fields}
            state, metrics = step(state, parts, jnp.zeros(program.mesh.size, jnp.int32))
            found += [float(metrics.loss), float(metrics.metrics["accuracy"])]
    return found


@pytest.mark.slow
def test_losses_are_those_of_one_device_on_a_mesh_and_with_microbatches(tmp_path: Path) -> None:
    one = losses(tmp_path)
    np.testing.assert_allclose(losses(tmp_path, 2, replica=2, fsdp=2, tensor=2), one, rtol=0, atol=1e-5)
    np.testing.assert_allclose(losses(tmp_path, 1, fsdp=2, context=2), one, rtol=0, atol=1e-5)
