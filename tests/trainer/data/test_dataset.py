"""A batch is a pure function of the run document and the step; training and validation share no token; no token is
lost.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halcyon.data.batch_schedule import BatchSchedule
from halcyon.data.dataset import Dataset
from halcyon.data.order.epochs import Order
from halcyon.data.source_data import NO_SOURCE, BatchRows
from halcyon.host.errors import BadConfiguration
from halcyon_api.spec.sources import HeldOutSpec
from halcyon_api.spec.trainer import BatchScheduleEntry
from tests.suite import promises
from tests.trainer.data.corpus import (
    RANDOM,
    CountingTokenizer,
    at,
    dataset_of_tokens,
    distinct_tokens,
    open_text,
    text_source,
)

GOLDEN_FIRST = [68, 32, 91, 97, 49, 82]
GOLDEN_BORDER = [59, 96, 86, 40, 93, 83]

BOS, EOS, PAD = 256, 257, 258
"""Special tokens of the byte tokenizer."""


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text("".join(f"Line {line} of file {number}.\n" for line in range(50)))
    return folder


def trained(dataset: Dataset, first: int, last: int) -> BatchRows:
    """The rows of the steps ``first`` to ``last - 1``, concatenated."""
    rows = [dataset.train_rows(step) for step in range(first, last)]
    return BatchRows(
        *(np.concatenate([getattr(row, name) for row in rows]) for name in ("source", "sequence", "part")),
        rows[0].length,
    )


def epoch_of(dataset: Dataset, epoch: int) -> np.ndarray:
    """All sequences of an epoch, in order, of a data set with one source and batches of 1."""
    sequences = sum(source.used for source in dataset.sources)
    return trained(dataset, epoch * sequences, (epoch + 1) * sequences).sequence


def validation_of(dataset: Dataset) -> np.ndarray:
    return np.concatenate([rows.sequence for rows in dataset.validation_batches(10**6, 64)])


def seen_tokens(dataset: Dataset, sequences: np.ndarray) -> set[int]:
    examples = at(dataset, sequences)
    return set(examples.tokens.ravel().tolist()) | set(examples.targets.ravel().tolist())


def texts(folder: Path, name: str, files: int) -> Path:
    """A folder of files in which each line names its source and file."""
    (folder / name).mkdir(parents=True)
    for file in range(files):
        (folder / name / f"{file:03d}.txt").write_text("".join(f"{name} {file} {line}\n" for line in range(40)))
    return folder / name


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("tokens", [18, 500, 4999, 5000, 5001])
def test_training_never_sees_a_held_out_token_and_no_token_is_lost(tokens: int, fraction: float) -> None:
    dataset = distinct_tokens(tokens, sequence_length=8, fraction=fraction)
    padding = {dataset.tokenizer.pad_id}
    training = seen_tokens(dataset, epoch_of(dataset, 0)) - padding
    validation = seen_tokens(dataset, validation_of(dataset)) - padding
    assert not training & validation
    lost = set(range(tokens)) - training - validation
    assert lost <= {tokens - 1}, "a single last token in a window has no target"
    assert sum(source.used for source in dataset.sources) + dataset.validation_sequences == len(range(0, tokens - 1, 9))


def test_targets_follow_their_inputs() -> None:
    dataset = distinct_tokens(1000, sequence_length=8, batch_size=16)
    examples = dataset.examples(dataset.train_rows(3))
    counted = examples.weights > 0
    assert np.array_equal(examples.targets[counted], examples.tokens[counted] + 1)
    assert (examples.tokens.dtype, examples.targets.dtype, examples.weights.dtype) == (np.int32, np.int32, np.float32)
    assert examples.segments.dtype == np.int32
    assert (
        examples.tokens.shape == examples.targets.shape == examples.weights.shape == examples.segments.shape == (16, 8)
    )


def test_the_last_sequence_is_padded_with_weight_0() -> None:
    dataset = distinct_tokens(9 + 4, sequence_length=8, fraction=0)
    examples = at(dataset, [1])
    pad = dataset.tokenizer.pad_id
    assert examples.tokens.tolist() == [[9, 10, 11, 12, pad, pad, pad, pad]]
    assert examples.targets.tolist() == [[10, 11, 12, pad, pad, pad, pad, pad]]
    assert examples.weights.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]


def test_documents_begin_with_bos_end_with_eos_and_a_beginning_is_not_predicted(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("ab")
    (tmp_path / "2").write_text("c")
    dataset = open_text(tmp_path, sequence_length=6, fraction=0)
    examples = at(dataset, [0])
    assert examples.tokens.tolist() == [[BOS, 97, 98, EOS, BOS, 99]]
    assert examples.targets.tolist() == [[97, 98, EOS, BOS, 99, EOS]]
    assert examples.weights.tolist() == [[1, 1, 1, 0, 1, 1]]
    description = dataset.description["sources"]["corpus"]
    assert (description["documents"], description["sizeBytes"], description["tokens"]) == (2, 3, 7)


def test_each_document_in_a_sequence_has_a_segment_of_its_own(tmp_path: Path) -> None:
    for name, text in (("1", "ab"), ("2", "c"), ("3", "d" * 24)):
        (tmp_path / name).write_text(text)
    dataset = open_text(tmp_path, sequence_length=9, fraction=0)
    examples = at(dataset, [0, 1, 2, 3])
    assert examples.tokens[0].tolist() == [BOS, 97, 98, EOS, BOS, 99, EOS, BOS, 100]
    assert examples.segments[0].tolist() == [1, 1, 1, 1, 2, 2, 2, 3, 3]
    assert examples.segments[1].tolist() == [0] * 9, "a sequence must begin inside a document"
    for row in range(3):
        begins = examples.tokens[row, 1:] == BOS
        assert np.array_equal(np.diff(examples.segments[row]) > 0, begins)
    assert examples.tokens[3].tolist() == [100, 100, EOS] + [PAD] * 6
    assert examples.weights[3].tolist() == [1, 1] + [0] * 7


@pytest.mark.parametrize("layout", [{"pack": {"maxSegments": 3}}, {"bestFit": {}}])
def test_packed_documents_have_a_segment_each(tmp_path: Path, layout: dict[str, object]) -> None:
    for number, letter in enumerate("abcdefghij"):
        (tmp_path / letter).write_text(letter * (1 + number % 4))
    dataset = open_text(sources=[text_source(tmp_path, name="letters", layout=layout)], sequence_length=12, fraction=0)
    examples = at(dataset, np.arange(sum(source.used for source in dataset.sources)))
    assert examples.segments.max() >= 2
    for tokens, segments in zip(examples.tokens, examples.segments, strict=True):
        letters = [(int(segment), int(token)) for token, segment in zip(tokens, segments, strict=True) if token < 256]
        assert len({segment for segment, _ in letters}) == len({token for _, token in letters}) == len(set(letters))
        assert tokens[0] == BOS


def test_without_a_begin_token_the_ends_of_documents_are_read() -> None:
    """As in GPT-2 and Qwen: a document is its text and the end token, which is a target.

    Nothing predicts how the next one begins.
    """
    mark = 1000
    tokenizer = CountingTokenizer(bos_id=mark, eos_id=mark, pad_id=mark)
    stream = np.array([1, 2, mark, 3, mark, 4, 5, mark, 6, 7], np.uint32)
    settings: dict[str, Any] = {"tokenizer": tokenizer, "ends": [3, 5, 8, 10]}
    dataset = dataset_of_tokens(stream, schedule=BatchSchedule(steps=1, batch_size=1, sequence_length=11), **settings)
    examples = at(dataset, [0])
    assert examples.targets.tolist() == [[2, mark, 3, mark, 4, 5, mark, 6, 7, mark, mark]]
    assert examples.weights.tolist() == [[1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 0]]
    assert examples.segments[0, :10].tolist() == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4]
    halves = dataset_of_tokens(stream, schedule=BatchSchedule(steps=1, batch_size=1, sequence_length=4), **settings)
    assert at(halves, [0, 1]).segments.tolist() == [[1, 1, 1, 2], [1, 1, 1, 2]], (
        "a sequence may begin inside of a document"
    )


def test_loss_weights_are_those_of_the_targets() -> None:
    weights = np.arange(20, dtype=np.float32) / 20
    dataset = dataset_of_tokens(
        np.arange(20, dtype=np.uint32),
        weights=weights,
        schedule=BatchSchedule(steps=1, batch_size=2, sequence_length=9),
    )
    examples = dataset.examples(dataset.train_rows(0))
    assert np.array_equal(examples.weights, weights[examples.targets])


def test_every_sequence_has_a_positive_loss_weight(tmp_path: Path) -> None:
    """Documents of one byte have the most boundaries.

    If all weights of a sequence were 0, its loss would be divided by 0.
    """
    for number in range(300):
        (tmp_path / f"{number:03d}").write_bytes(b"x")
    for length in (2, 3, 4, 7):
        dataset = open_text(tmp_path, sequence_length=length, fraction=0)
        assert at(dataset, np.arange(sum(source.used for source in dataset.sources))).weights.sum(axis=1).min() >= 1


def test_every_epoch_has_every_sequence_once_in_an_order_of_its_own() -> None:
    dataset = distinct_tokens(2000, sequence_length=8)
    epochs = [epoch_of(dataset, epoch) for epoch in range(4)]
    for indices in epochs:
        assert np.array_equal(np.sort(indices), np.sort(epochs[0]))
        assert np.unique(indices).size == sum(source.used for source in dataset.sources)
    for first in range(4):
        for second in range(first):
            assert (epochs[first] == epochs[second]).sum() < 10


@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_batches_are_the_same_order_cut_in_pieces(batch_size: int) -> None:
    """Also for a batch that spans two epochs, or several."""
    alone = distinct_tokens(2000, sequence_length=8)
    expected = np.concatenate([epoch_of(alone, epoch) for epoch in range(5)])
    steps = len(expected) // batch_size
    batches = trained(distinct_tokens(2000, sequence_length=8, batch_size=batch_size), 0, steps)
    assert np.array_equal(batches.sequence, expected[: steps * batch_size])
    assert not batches.source.any()
    assert not batches.part.any()


def test_stages_of_sizes_take_every_training_sequence_once_in_an_epoch() -> None:
    """Batches of 4, 12 and 6; sequences of 8 tokens, quarters (2), halves (4), then 8 again.

    A stage starts with a new sequence.
    """
    stages = [
        BatchScheduleEntry(from_step=10, batch_size=12),
        BatchScheduleEntry(from_step=15, sequence_length=2),
        BatchScheduleEntry(from_step=25, sequence_length=4, batch_size=6),
        BatchScheduleEntry(from_step=35, sequence_length=8),
    ]
    dataset = distinct_tokens(9 * 300, sequence_length=8, fraction=0.1, stages=stages, batch_size=4)
    assert sum(source.used for source in dataset.sources) == 270
    taken: Counter[int] = Counter()
    epoch: set[int] = set()
    for step in range(10**6):
        rows = dataset.train_rows(step)
        length = dataset.schedule.sequence_length(step)
        assert (len(rows), rows.length) == (dataset.schedule.batch_size(step), length)
        examples = dataset.examples(rows)
        assert examples.tokens.shape == (len(rows), length)
        assert np.array_equal(examples.targets, examples.tokens + 1)
        assert np.array_equal(examples.tokens[:, 0], rows.sequence * 9 + rows.part * length)
        for sequence, targets in zip(rows.sequence.tolist(), examples.targets, strict=True):
            if sequence in epoch or len(epoch) < 270:
                epoch.add(sequence)
                taken.update(targets.tolist())
        if dataset.schedule.positions_before(step + 1) >= 270:
            break
    assert step > 35
    validation = set(validation_of(dataset).tolist())
    assert epoch == set(range(300)) - validation
    targets = {9 * sequence + offset for sequence in epoch for offset in range(1, 9)}
    over = 12 * 4  # the last batch continues into the next epoch
    assert set(taken) == targets
    assert sum(taken.values()) - len(targets) <= over


@promises.PURE_EXAMPLES
def test_a_batch_depends_on_nothing_but_document_and_step(corpus: Path) -> None:
    one, two = open_text(corpus, batch_size=8), open_text(corpus, batch_size=8)
    steps = [1_000_000_000, 0, 17, 17, 3, 0]
    for step in steps:
        one.train_rows(step)
    for step in reversed(steps):
        first, second = one.examples(one.train_rows(step)), two.examples(two.train_rows(step))
        for name in ("tokens", "targets", "weights", "segments"):
            assert np.array_equal(getattr(first, name), getattr(second, name))


def test_examples_do_not_depend_on_which_rows_are_requested_together(tmp_path: Path) -> None:
    sources = [text_source(texts(tmp_path, name, 4), name=name, weight=1) for name in ("first", "second")]
    dataset = open_text(sources=sources, batch_size=16)
    rows = dataset.train_rows(5)
    whole = dataset.examples(rows)
    for row in range(16):
        alone = dataset.examples(rows[np.array([row])])
        for name in ("tokens", "targets", "weights", "segments"):
            assert np.array_equal(getattr(alone, name)[0], getattr(whole, name)[row])


def test_seed_and_name_change_the_order_and_not_the_held_out_part(corpus: Path) -> None:
    base = open_text(corpus)
    for other in (open_text(corpus, seed=1), open_text(corpus, name="renamed")):
        assert not np.array_equal(epoch_of(base, 0), epoch_of(other, 0))
        assert np.array_equal(np.sort(epoch_of(base, 0)), np.sort(epoch_of(other, 0)))
        assert np.array_equal(validation_of(base), validation_of(other))


def test_the_order_never_changes_between_versions() -> None:
    order = Order(RANDOM, sequences=100, seed=7, source="stdlib")
    assert order(np.arange(6)).tolist() == GOLDEN_FIRST
    assert order(np.arange(98, 104)).tolist() == GOLDEN_BORDER


def test_without_shuffle_the_text_is_read_in_order() -> None:
    sequences = sum(source.used for source in distinct_tokens(1000, sequence_length=8, fraction=0).sources)
    dataset = distinct_tokens(1000, sequence_length=8, fraction=0, shuffle=False, batch_size=sequences)
    assert dataset.train_rows(0).sequence.tolist() == list(range(sequences))
    assert dataset.train_rows(1).sequence.tolist() == list(range(sequences))


def test_a_partial_evaluation_takes_evenly_spaced_sequences() -> None:
    dataset = distinct_tokens(90_000, sequence_length=8, fraction=0.1)
    assert dataset.validation_sequences == 1000
    batches = dataset.validation_batches(3, 10)
    assert [len(batch) for batch in batches] == [10, 10, 10]
    taken = np.concatenate([batch.sequence for batch in batches])
    assert np.all(np.diff(taken) > 0)
    assert np.diff(taken).max() - np.diff(taken).min() <= 20
    assert taken[0] < 400
    assert taken[-1] > 9_600
    whole = dataset.validation_batches(1_000_000, 300)
    assert [len(batch) for batch in whole] == [300, 300, 300, 100]
    assert np.unique(np.concatenate([batch.sequence for batch in whole])).size == 1000


def test_each_source_holds_out_its_own_part_and_an_evaluation_sees_all_of_them(tmp_path: Path) -> None:
    fractions = {"first": None, "second": 0.5, "third": 1.0, "fourth": 0.0}
    sources = [
        text_source(
            texts(tmp_path, name, 3), name=name, validation=None if fraction is None else HeldOutSpec(fraction=fraction)
        )
        for name, fraction in fractions.items()
    ]
    dataset = open_text(sources=sources, fraction=0.2, batch_size=8)
    for source, fraction in zip(dataset.sources, (0.2, 0.5, 1.0, 0.0), strict=True):
        assert source.split.validation == pytest.approx(fraction * source.split.total, abs=0.5)
    batches = dataset.validation_batches(10**6, 7)
    seen = {
        (source, sequence)
        for rows in batches
        for source, sequence in zip(rows.source.tolist(), rows.sequence.tolist(), strict=True)
    }
    assert len(seen) == sum(len(rows) for rows in batches) == dataset.validation_sequences
    assert {source for source, _ in seen} == {0, 1, 2}
    rows = trained(dataset, 0, 2 * sum(source.used for source in dataset.sources) // 8)
    trained_on = set(zip(rows.source.tolist(), rows.sequence.tolist(), strict=True))
    assert not trained_on & seen
    assert {source for source, _ in trained_on} == {0, 1, 3}
    for batch in batches:
        for source, tokens in zip(batch.source, dataset.examples(batch).tokens, strict=True):
            text = bytes(tokens[tokens < 256].astype(np.uint8))
            assert not any(other.encode() in text for other in fractions.keys() - {list(fractions)[source]})


def test_a_mixture_of_two_sources_has_its_shares(tmp_path: Path) -> None:
    """The shares are exactly 3 to 1 in every block of 64 sequences, and each source's order does not depend on the
    other source.
    """
    few, many = texts(tmp_path, "few", 2), texts(tmp_path, "many", 9)
    sources = [text_source(few, name="few", weight=3), text_source(many, name="many", weight=1)]
    dataset = open_text(sources=sources, batch_size=16, mixture={"blockSequences": 64})
    rows = trained(dataset, 0, 40)
    for block in rows.source.reshape(-1, 64):
        assert np.bincount(block).tolist() == [48, 16]
    examples = dataset.examples(rows)
    for name, index in (("few", 0), ("many", 1)):
        for tokens in examples.tokens[rows.source == index]:
            text = bytes(tokens[tokens < 256].astype(np.uint8))
            assert not {b"few", b"many"} - {name.encode()} & {
                word for word in text.split() if word in (b"few", b"many")
            }
    for name, folder, index in (("few", few, 0), ("many", many, 1)):
        mine = rows.sequence[rows.source == index]
        alone = trained(open_text(folder, name=name), 0, len(mine))
        assert np.array_equal(alone.sequence, mine)


def test_rows_past_the_end_of_the_data_have_weight_0(tmp_path: Path) -> None:
    folder = texts(tmp_path, "only", 3)
    sequences = sum(source.used for source in open_text(folder, fraction=0).sources)
    batch = 16
    full, rest = divmod(sequences, batch)
    assert rest
    pad = {"stop": "firstExhausted", "lastBatch": "pad"}
    dataset = open_text(folder, fraction=0, batch_size=batch, steps=full + 1, mixture=pad)
    assert np.array_equal(np.sort(trained(dataset, 0, full + 1).sequence[:sequences]), np.arange(sequences))
    last = dataset.train_rows(full)
    assert last.source.tolist() == [0] * rest + [NO_SOURCE] * (batch - rest)
    examples = dataset.examples(last)
    assert (examples.weights[:rest].sum(axis=1) > 0).all()
    assert not examples.weights[rest:].any()
    assert np.array_equal(examples.tokens[rest:], np.full((batch - rest, 16), PAD))
    assert not dataset.examples(dataset.train_rows(full + 1)).weights.any()
    for mixture, steps in ((pad, full + 2), (pad | {"lastBatch": "drop"}, full + 1)):
        with pytest.raises(
            BadConfiguration, match=rf"^spec\.trainer\.steps: .*set steps to {steps - 1} or less, or stop to restart$"
        ):
            open_text(folder, fraction=0, batch_size=batch, steps=steps, mixture=mixture)


def test_a_rehearsal_repeats_its_sequences_as_often_as_the_long_run(tmp_path: Path) -> None:
    sources = [
        text_source(texts(tmp_path, name, files), name=name, weight=1) for name, files in (("small", 4), ("large", 12))
    ]
    long_steps, steps, batch = 400, 100, 8
    long_run = open_text(sources=sources, batch_size=batch, steps=long_steps)
    short = open_text(
        sources=sources, batch_size=batch, steps=steps, mixture={"simulateTokens": long_steps * batch * 16}
    )
    rows = trained(short, 0, steps)
    for index, (rehearsed, whole) in enumerate(zip(short.sources, long_run.sources, strict=True)):
        assert rehearsed.used == round(whole.used * steps / long_steps)
        seen, times = np.unique(rows.sequence[rows.source == index], return_counts=True)
        assert len(seen) == min(rehearsed.used, times.sum())
        assert times.max() - times.min() <= 1
        validation = whole.split.validation_sequences(np.arange(whole.split.validation))
        assert not np.isin(seen, validation).any()
        used = rehearsed.training_sequences(np.arange(rehearsed.used))
        gaps = np.diff(np.concatenate([[0], np.sort(used), [whole.split.total - 1]]))
        assert gaps[1:-1].min() >= 3, "a quarter of the source, evenly spread over it"
        assert gaps.max() <= 6
        epochs = [
            float(data.mixture.epochs(data.schedule.positions_before(end))[index])
            for data, end in ((short, steps), (long_run, 400))
        ]
        assert epochs[0] == pytest.approx(epochs[1], rel=0.02)
    assert np.array_equal(validation_of(short), validation_of(long_run)), "both are evaluated on the same text"


def test_the_weights_of_a_mixture_change_with_a_step(tmp_path: Path) -> None:
    sources = [
        text_source(texts(tmp_path, name, 4), name=name, weight=weight)
        for name, weight in (("first", 1), ("second", 0))
    ]
    dataset = open_text(
        sources=sources,
        batch_size=16,
        steps=10,
        mixture={"blockSequences": 16, "schedule": [{"fromStep": 5, "weights": [{"source": "second", "weight": 1}]}]},
    )
    assert trained(dataset, 0, 5).source.tolist() == [0] * 80
    assert trained(dataset, 5, 10).source.tolist() == [1] * 80


def test_fingerprint_is_of_contents_not_of_places(corpus: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in corpus.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    base = open_text(corpus)
    assert open_text(corpus, seed=5).fingerprint == base.fingerprint
    assert open_text(moved).fingerprint == base.fingerprint


def test_fingerprint_changes_with_everything_that_moves_data(corpus: Path) -> None:
    base = open_text(corpus).fingerprint
    different = {base, open_text(corpus, sequence_length=17).fingerprint, open_text(corpus, fraction=0.2).fingerprint}
    first, second = corpus / "0.txt", corpus / "1.txt"
    original = first.read_bytes(), second.read_bytes()
    first.write_bytes(original[0].replace(b"7", b"8", 1))
    different.add(open_text(corpus).fingerprint)
    # The same bytes in total, but with another border between two documents.
    first.write_bytes(original[0][:-1])
    second.write_bytes(original[0][-1:] + original[1])
    different.add(open_text(corpus).fingerprint)
    first.write_bytes(original[0])
    second.write_bytes(original[1])
    assert open_text(corpus).fingerprint == base
    packed = open_text(sources=[text_source(corpus, layout={"pack": {"tooLong": "right"}})]).fingerprint
    rehearsed = open_text(corpus, mixture={"simulateTokens": 160}).fingerprint
    assert len(different | {packed, rehearsed}) == 7


def test_description_lists_the_content_of_the_fingerprint(corpus: Path) -> None:
    description = open_text(corpus).description
    assert set(description) == {"layoutVersion", "tokenizerSha256", "sequenceLength", "sources"}
    source = description["sources"]["corpus"]
    assert source["documents"] == 5
    assert source["sizeBytes"] == sum(file.stat().st_size for file in corpus.iterdir())
    assert source["tokens"] == source["sizeBytes"] + 2 * 5
    assert set(source) == {
        *("contentSha256", "documents", "sizeBytes", "tokens"),
        *("trainSequences", "validationSequences", "usedSequences"),
    }


def test_an_index_outside_is_an_error() -> None:
    dataset = distinct_tokens(100, sequence_length=8)
    for index in (-1, 11 + 1):
        with pytest.raises(IndexError, match="outside"):
            at(dataset, [index])


def test_a_source_with_only_empty_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(
        BadConfiguration,
        match=r"^spec\.data\.sources\[mine\].*: all its (files|documents) are empty; give it some text$",
    ):
        open_text(tmp_path, name="mine")


def test_evaluation_without_held_out_text_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("short")
    for fraction, sentence in (
        (0.0, r"^spec\.data\.validation\.fraction: it is 0, .*; raise it, or set everySteps to 0$"),
        (0.1, r"^spec\.data\.sources: the text is too short: 7 tokens .*; give more text, lower .*Length to 2, or set"),
    ):
        with pytest.raises(BadConfiguration, match=sentence):
            open_text(tmp_path, fraction=fraction, every_steps=10)
    assert open_text(tmp_path, fraction=0.1).validation_sequences == 0
