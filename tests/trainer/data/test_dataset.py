"""A batch is a pure function of the run document and the step; training and validation share no token; nothing is dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from halcyon.data import Dataset
from halcyon.data.order import Order
from halcyon.errors import BadConfiguration
from tests.trainer.data.corpus import distinct_tokens, open_text

GOLDEN_FIRST = [68, 32, 91, 97, 49, 82]
GOLDEN_BORDER = [59, 96, 86, 40, 93, 83]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text("".join(f"Line {line} of file {number}.\n" for line in range(50)))
    return folder


def epoch_of(dataset: Dataset, epoch: int) -> np.ndarray:
    """All indices of one epoch, in order."""
    sequences = dataset.train_sequences
    return np.concatenate([dataset.train_batch(step, 1) for step in range(epoch * sequences, (epoch + 1) * sequences)])


def seen_tokens(dataset: Dataset, indices: np.ndarray) -> set[int]:
    examples = dataset.examples(indices)
    return set(examples.tokens.ravel().tolist()) | set(examples.targets.ravel().tolist())


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("tokens", [18, 500, 4999, 5000, 5001])
def test_training_never_sees_a_held_out_token_and_no_token_is_lost(tokens: int, fraction: float) -> None:
    dataset = distinct_tokens(tokens, sequence_length=8, fraction=fraction)
    padding = {dataset.tokenizer.pad_id}
    training = seen_tokens(dataset, epoch_of(dataset, 0)) - padding
    validation = seen_tokens(dataset, np.concatenate(dataset.validation_batches(tokens, 4))) - padding
    assert not training & validation
    lost = set(range(tokens)) - training - validation
    assert lost <= {tokens - 1}, "a last token alone in its window has nothing to predict"
    assert dataset.train_sequences + dataset.validation_sequences == len(range(0, tokens - 1, 9))


def test_targets_follow_their_inputs() -> None:
    dataset = distinct_tokens(1000, sequence_length=8)
    examples = dataset.examples(dataset.train_batch(3, 16))
    counted = examples.weights > 0
    assert np.array_equal(examples.targets[counted], examples.tokens[counted] + 1)
    assert (examples.tokens.dtype, examples.targets.dtype, examples.weights.dtype) == (np.int32, np.int32, np.float32)
    assert examples.tokens.shape == examples.targets.shape == examples.weights.shape == (16, 8)


def test_the_last_sequence_is_padded_with_weight_0() -> None:
    dataset = distinct_tokens(9 + 4, sequence_length=8, fraction=0)
    examples = dataset.examples(np.array([1]))
    pad = dataset.tokenizer.pad_id
    assert examples.tokens.tolist() == [[9, 10, 11, 12, pad, pad, pad, pad]]
    assert examples.targets.tolist() == [[10, 11, 12, pad, pad, pad, pad, pad]]
    assert examples.weights.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]


def test_documents_begin_with_bos_end_with_eos_and_a_beginning_is_not_predicted(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("ab")
    (tmp_path / "2").write_text("c")
    dataset = open_text(tmp_path, sequence_length=6, fraction=0)
    examples = dataset.examples(np.array([0]))
    assert examples.tokens.tolist() == [[256, 97, 98, 257, 256, 99]]
    assert examples.targets.tolist() == [[97, 98, 257, 256, 99, 257]]
    assert examples.weights.tolist() == [[1, 1, 1, 0, 1, 1]]
    assert (dataset.documents, dataset.size_bytes, dataset.tokens) == (2, 3, 7)
    assert dataset.bytes_per_token == 3 / 7


def test_every_sequence_counts_for_something(tmp_path: Path) -> None:
    """Documents of one byte make the most boundaries there can be; a weight of 0 would divide a loss by 0."""
    for number in range(300):
        (tmp_path / f"{number:03d}").write_bytes(b"x")
    for length in (2, 3, 4, 7):
        dataset = open_text(tmp_path, sequence_length=length, fraction=0)
        assert dataset.examples(np.arange(dataset.train_sequences)).weights.sum(axis=1).min() >= 1


def test_every_epoch_has_every_sequence_once_in_an_order_of_its_own() -> None:
    dataset = distinct_tokens(2000, sequence_length=8)
    epochs = [epoch_of(dataset, epoch) for epoch in range(4)]
    for indices in epochs:
        assert np.array_equal(np.sort(indices), np.sort(epochs[0]))
        assert np.unique(indices).size == dataset.train_sequences
    for first in range(4):
        for second in range(first):
            assert (epochs[first] == epochs[second]).sum() < 10


@pytest.mark.parametrize("batch_size", [1, 7, 64, 500])
def test_batches_are_the_same_order_cut_in_pieces(batch_size: int) -> None:
    """Also where a batch lies across the border of two epochs, or holds several epochs."""
    dataset = distinct_tokens(2000, sequence_length=8)
    expected = np.concatenate([epoch_of(dataset, epoch) for epoch in range(5)])
    steps = len(expected) // batch_size
    batches = np.concatenate([dataset.train_batch(step, batch_size) for step in range(steps)])
    assert np.array_equal(batches, expected[: steps * batch_size])


def test_a_batch_depends_on_nothing_but_document_and_step(corpus: Path) -> None:
    one, two = open_text(corpus), open_text(corpus)
    steps = [1_000_000_000, 0, 17, 17, 3, 0]
    for step in steps:
        one.train_batch(step, 8)
    for step in reversed(steps):
        first, second = one.examples(one.train_batch(step, 8)), two.examples(two.train_batch(step, 8))
        assert np.array_equal(first.tokens, second.tokens)
        assert np.array_equal(first.targets, second.targets)
        assert np.array_equal(first.weights, second.weights)


def test_seed_and_name_reorder_and_leave_the_validation_alone(corpus: Path) -> None:
    base = open_text(corpus)
    for other in (open_text(corpus, seed=1), open_text(corpus, name="renamed")):
        assert not np.array_equal(epoch_of(base, 0), epoch_of(other, 0))
        assert np.array_equal(np.sort(epoch_of(base, 0)), np.sort(epoch_of(other, 0)))
        assert np.array_equal(np.concatenate(base.validation_batches(99, 8)), np.concatenate(other.validation_batches(99, 8)))


def test_the_order_never_changes_between_versions() -> None:
    order = Order(sequences=100, seed=7, source="stdlib", shuffle=True)
    assert order(np.arange(6)).tolist() == GOLDEN_FIRST
    assert order(np.arange(98, 104)).tolist() == GOLDEN_BORDER


def test_without_shuffle_the_text_is_read_in_order() -> None:
    dataset = distinct_tokens(1000, sequence_length=8, fraction=0, shuffle=False)
    sequences = dataset.train_sequences
    assert dataset.train_batch(0, sequences).tolist() == list(range(sequences))
    assert dataset.train_batch(1, sequences).tolist() == list(range(sequences))


def test_an_evaluation_that_takes_a_part_takes_it_from_everywhere() -> None:
    dataset = distinct_tokens(90_000, sequence_length=8, fraction=0.1)
    assert dataset.validation_sequences == 1000
    batches = dataset.validation_batches(3, 10)
    assert [len(batch) for batch in batches] == [10, 10, 10]
    taken = np.concatenate(batches)
    assert np.all(np.diff(taken) > 0)
    assert np.diff(taken).max() - np.diff(taken).min() <= 20
    assert taken[0] < 400
    assert taken[-1] > 9_600
    whole = dataset.validation_batches(1_000_000, 300)
    assert [len(batch) for batch in whole] == [300, 300, 300, 100]
    assert np.unique(np.concatenate(whole)).size == 1000


def test_fingerprint_is_of_contents_not_of_places(corpus: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in corpus.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    base = open_text(corpus)
    assert open_text(moved).fingerprint == base.fingerprint
    assert open_text(corpus, seed=5).fingerprint == base.fingerprint


def test_fingerprint_tells_what_would_move_data(corpus: Path) -> None:
    base = open_text(corpus).fingerprint
    different = {base, open_text(corpus, sequence_length=17).fingerprint, open_text(corpus, fraction=0.2).fingerprint}
    first, second = corpus / "0.txt", corpus / "1.txt"
    original = first.read_bytes(), second.read_bytes()
    first.write_bytes(original[0].replace(b"7", b"8", 1))
    different.add(open_text(corpus).fingerprint)
    # The same bytes in all, with the border between two documents moved.
    first.write_bytes(original[0][:-1])
    second.write_bytes(original[0][-1:] + original[1])
    different.add(open_text(corpus).fingerprint)
    assert len(different) == 5


def test_description_says_what_the_fingerprint_is_of(corpus: Path) -> None:
    description = open_text(corpus).description
    assert description["documents"] == 5
    assert description["sizeBytes"] == sum(file.stat().st_size for file in corpus.iterdir())
    assert set(description) == {
        *("layoutVersion", "contentSha256", "documents", "sizeBytes"),
        *("tokenizerSha256", "sequenceLength", "trainSequences", "validationSequences"),
    }


def test_an_index_outside_is_an_error() -> None:
    dataset = distinct_tokens(100, sequence_length=8)
    for index in (-1, 11 + 1):
        with pytest.raises(IndexError, match="outside"):
            dataset.examples(np.array([index]))


def test_only_empty_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(BadConfiguration, match=r"^spec\.data\.sources\[mine\]\.text: all its files are empty; give it some text$"):
        open_text(tmp_path, name="mine")


def test_evaluation_without_held_out_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("short")
    for fraction in (0.0, 0.1):
        with pytest.raises(
            BadConfiguration, match=r"^spec\.data\.validation\.fraction: .* of 1 sequences holds none out, but .* raise the fraction"
        ):
            open_text(tmp_path, fraction=fraction, every_steps=10)
    assert open_text(tmp_path, fraction=0.1).validation_sequences == 0
