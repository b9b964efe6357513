"""Nats and bytes are summed and divided once, for any batches, microbatches and mesh."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from halcyon.data.dataset import Dataset
from halcyon.step.objectives.objective import Batch, Sums
from halcyon.step.state import initial_state
from halcyon.step.validation import Validation, evaluate, make_evaluation_step
from halcyon_api.spec.sources import HeldOutSpec
from halcyon_api.status.evaluation import Evaluation
from tests.api.documents import minimal_spec
from tests.trainer.data.corpus import distinct_tokens, open_text, text_source
from tests.trainer.step.given import as_objective
from tests.trainer.step.test_audit import compilations
from tests.trainer.step.test_program import TINY, program_of
from tests.trainer.support.batches import FIELDS, NO_SEGMENTS


def batch_sharding(devices: int = 1) -> NamedSharding:
    return NamedSharding(Mesh(np.array(jax.devices()[:devices]), ("fsdp",)), PartitionSpec(None, "fsdp"))


@as_objective
def table_loss(table: jax.Array, batch: Batch, frozen: None, key: None) -> Sums:
    """A model whose loss is a table by input and target."""
    return Sums(
        jnp.sum(batch["weights"] * table[batch["tokens"] % 64, batch["targets"] % 64]), jnp.sum(batch["weights"])
    )


TABLE = np.random.default_rng(0).uniform(0.1, 9.0, (64, 64)).astype(np.float32)


def run(
    dataset: Dataset,
    *,
    batches: int = 10**6,
    batch_size: int = 8,
    microbatches: int = 1,
    devices: int = 1,
    **options: Any,
) -> Evaluation:
    step = jax.jit(make_evaluation_step(table_loss, dataset.tokenizer.token_bytes))
    table = jnp.asarray(TABLE)
    return evaluate(
        dataset,
        lambda batch: step(table, batch),
        batches=batches,
        batch_size=batch_size,
        microbatches=microbatches,
        sharding=batch_sharding(devices),
        fields=NO_SEGMENTS,
        **options,
    )


def by_hand(dataset: Dataset, *, batches: int = 10**6, batch_size: int = 8) -> tuple[float, float, int, int]:
    """Loss, bits per byte, tokens and bytes, computed in float64, one sequence after another."""
    nats, weight, size = 0.0, 0.0, 0
    for rows in dataset.validation_batches(batches, batch_size):
        examples = dataset.examples(rows)
        nats += float((examples.weights.astype(np.float64) * TABLE[examples.tokens % 64, examples.targets % 64]).sum())
        weight += float(examples.weights.sum())
        size += int(dataset.tokenizer.token_bytes[examples.targets][examples.weights > 0].sum())
    return nats / weight, nats / math.log(2) / size, int(weight), size


LAYOUTS = [(1, 1, 1), (8, 1, 1), (8, 2, 1), (8, 4, 2), (8, 1, 8), (24, 3, 8), (1000, 1, 1)]


@pytest.fixture
def texts(tmp_path: Path) -> Dataset:
    for number in range(40):
        (tmp_path / f"{number:02d}.txt").write_text(f"This is the text of file {number}.\n" * (number % 7 + 1))
    return open_text(tmp_path, sequence_length=16, fraction=0.3)


@pytest.mark.parametrize(("batch_size", "microbatches", "devices"), LAYOUTS)
def test_the_result_does_not_depend_on_how_it_is_computed(
    texts: Dataset, batch_size: int, microbatches: int, devices: int
) -> None:
    found = run(texts, batch_size=batch_size, microbatches=microbatches, devices=devices)
    loss, bits_per_byte, tokens, size_bytes = by_hand(texts)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(bits_per_byte, rel=1e-6)
    assert (found.tokens, found.size_bytes, found.sequences) == (tokens, size_bytes, texts.validation_sequences)


def test_an_evaluation_can_use_a_part_of_the_held_out_text(texts: Dataset) -> None:
    found = run(texts, batches=2, batch_size=8)
    loss, bits_per_byte, tokens, size_bytes = by_hand(texts, batches=2, batch_size=8)
    assert found.loss == pytest.approx(loss, rel=1e-6)
    assert found.bits_per_byte == pytest.approx(bits_per_byte, rel=1e-6)
    assert (found.tokens, found.size_bytes, found.sequences) == (tokens, size_bytes, 16)


def test_an_evaluation_ends_before_a_batch_if_the_caller_raises(texts: Dataset) -> None:
    begun: list[int] = []

    def before_batch() -> None:
        if len(begun) == 2:
            raise InterruptedError
        begun.append(1)

    with pytest.raises(InterruptedError):
        run(texts, batch_size=1, before_batch=before_batch)


def test_several_sources_are_evaluated_as_one_held_out_part(tmp_path: Path) -> None:
    sources = []
    for name, fraction in (("a", 0.2), ("b", 1.0)):
        (tmp_path / name).write_text(f"The text of {name}.\n" * 60)
        sources.append(text_source(tmp_path / name, name=name, validation=HeldOutSpec(fraction=fraction)))
    dataset = open_text(sources=sources)
    found = run(dataset, batch_size=8, microbatches=2)
    loss, bits_per_byte, tokens, size_bytes = by_hand(dataset)
    assert (found.loss, found.bits_per_byte) == (pytest.approx(loss, rel=1e-6), pytest.approx(bits_per_byte, rel=1e-6))
    assert (found.tokens, found.size_bytes, found.sequences) == (tokens, size_bytes, dataset.validation_sequences)


@pytest.mark.parametrize("segments", [False, True])
def test_documents_are_separated_as_in_training(texts: Dataset, segments: bool) -> None:
    """A model whose loss is the segment of each input."""
    step = jax.jit(
        make_evaluation_step(
            as_objective(
                lambda model, batch, frozen, key: Sums(
                    jnp.sum(batch["weights"] * batch.get("segments", 0)), jnp.sum(batch["weights"])
                )
            ),
            texts.tokenizer.token_bytes,
        )
    )
    found = evaluate(
        texts,
        lambda batch: step(None, batch),
        batches=10**6,
        batch_size=8,
        microbatches=2,
        sharding=batch_sharding(2),
        fields=FIELDS if segments else NO_SEGMENTS,
    )
    by_sequence = [texts.examples(rows) for rows in texts.validation_batches(10**6, 8)]
    nats = sum(float((examples.weights * examples.segments).sum()) for examples in by_sequence)
    assert nats > 0
    assert found.loss == pytest.approx(nats / found.tokens if segments else 0.0)


def test_special_tokens_cost_nats_and_stand_for_no_bytes(texts: Dataset) -> None:
    found = run(texts)
    assert found.size_bytes < found.tokens
    assert found.bits_per_byte is not None
    assert found.bits_per_byte > found.loss / math.log(2)


def test_bytes_are_those_of_the_tokens() -> None:
    dataset = distinct_tokens(1000, sequence_length=8, fraction=0.2)
    found = run(dataset)
    assert found.size_bytes == 4 * found.tokens
    assert found.bits_per_byte == pytest.approx(found.loss / math.log(2) / 4)


def test_text_of_no_bytes_has_no_bits_per_byte() -> None:
    dataset = distinct_tokens(1000, sequence_length=8, fraction=0.2)
    step = jax.jit(make_evaluation_step(table_loss, np.zeros(dataset.tokenizer.vocab_size, np.int32)))
    found = evaluate(
        dataset,
        lambda batch: step(jnp.asarray(TABLE), batch),
        batches=2,
        batch_size=4,
        microbatches=1,
        sharding=batch_sharding(),
        fields=NO_SEGMENTS,
    )
    assert found.bits_per_byte is None


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_diverged_model_is_reported_not_raised(texts: Dataset, value: float) -> None:
    @as_objective
    def objective(model: None, batch: Batch, frozen: None, key: None) -> Sums:
        return Sums(jnp.float32(value), jnp.sum(batch["weights"]))

    step = jax.jit(make_evaluation_step(objective, texts.tokenizer.token_bytes))
    found = evaluate(
        texts,
        lambda batch: step(None, batch),
        batches=2,
        batch_size=4,
        microbatches=1,
        sharding=batch_sharding(),
        fields=NO_SEGMENTS,
    )
    assert str(found.loss) == str(value)


def test_an_evaluation_of_nothing_is_an_error() -> None:
    dataset = distinct_tokens(100, sequence_length=8, fraction=0)
    unused: Callable[[Any], Any] = lambda batch: batch  # noqa: E731
    with pytest.raises(ValueError, match="nothing is held out"):
        evaluate(
            dataset, unused, batches=1, batch_size=1, microbatches=1, sharding=batch_sharding(), fields=NO_SEGMENTS
        )


def test_the_first_evaluation_compiles_nothing_that_was_compiled_beside_the_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "1").write_text("The text of a file.\n" * 40)
    program = program_of(spec__trainer__evaluation={"everySteps": 2, "batches": 1})
    settings = minimal_spec(spec__model=TINY, spec__trainer__evaluation={"everySteps": 2, "batches": 1}).trainer
    length = settings.sequence_length
    dataset = open_text(tmp_path, sequence_length=length, fraction=0.5, batch_size=settings.batch_size)
    evaluation = Validation(settings, program, dataset, cast("Any", None))
    state = initial_state(program.build_state, program.template)
    with ThreadPoolExecutor(1) as beside:
        made = beside.submit(compilations, caplog, evaluation.compile).result()
    assert made == ["jit(evaluation_step)"]
    assert compilations(caplog, lambda: evaluation.of(state, lambda: None)) == []
