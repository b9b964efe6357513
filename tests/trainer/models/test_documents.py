"""Each document in a packed row is predicted only from itself: its loss is the same as in a row with no other document."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from halcyon.data.examples import Examples, examples_of
from halcyon_api.spec.model import ModelSpec
from tests.trainer.data.corpus import CountingTokenizer
from tests.trainer.models.cases import GPT2, LENGTH, LLAMA, logits, make, named

BOS, EOS, PAD = 21, 22, 23
DOCUMENTS = ([BOS, 1, 2, 3, EOS], [BOS, 4, EOS], [BOS, 5, 6, EOS])
OTHERS = ([BOS, 9, 10, 11, EOS], DOCUMENTS[1], [BOS, 12, 13, EOS])
"""Only the second document is the same as in DOCUMENTS. It is at the same place."""


def packed(*rows: tuple[list[int], ...]) -> Examples:
    """Examples whose rows hold documents one after another, and then padding."""
    windows = np.full((len(rows), LENGTH + 1), PAD)
    lengths = []
    for window, documents in zip(windows, rows, strict=True):
        tokens = [token for document in documents for token in document]
        window[: len(tokens)] = tokens
        lengths.append(len(tokens))
    return examples_of(windows, np.array(lengths), None, CountingTokenizer(bos_id=BOS, eos_id=EOS, pad_id=PAD))


def losses(spec: ModelSpec, examples: Examples, *, with_segments: bool) -> np.ndarray:
    """Loss of each document, [row, document]."""
    found = logits(make(spec), named(examples.tokens), named(examples.segments) if with_segments else None)
    nats = -np.asarray(jax.nn.log_softmax(found))
    weighted = np.take_along_axis(nats, examples.targets[..., None], axis=-1)[..., 0] * examples.weights
    return np.stack([np.where(examples.segments == number, weighted, 0).sum(axis=1) for number in (1, 2, 3)], axis=1)


ROWS = packed(DOCUMENTS, OTHERS, *((document,) for document in DOCUMENTS))


@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_document_in_a_packed_row_is_predicted_from_itself_alone(spec: ModelSpec) -> None:
    together, among_others, *alone = losses(spec, ROWS, with_segments=True)
    assert together[1] == pytest.approx(among_others[1], rel=1e-6)
    assert together[0] == pytest.approx(alone[0][0], rel=1e-5)
    if spec is LLAMA:  # Llama's positions are relative; GPT-2's are learned and count from the start of the row
        assert together == pytest.approx(np.array([losses[0] for losses in alone]), rel=1e-5)
    mixed_up, among_others, *_ = losses(spec, ROWS, with_segments=False)
    assert mixed_up[1] != pytest.approx(among_others[1], rel=1e-3), "the loss must differ if documents see one another"


def test_every_target_of_a_document_counts_and_no_beginning_does() -> None:
    counted = [np.where(ROWS.segments == number, ROWS.weights, 0).sum(axis=1) for number in (1, 2, 3)]
    assert [weights[0] for weights in counted] == [len(document) - 1 for document in DOCUMENTS]
    assert ROWS.weights.sum(axis=1).tolist() == [9, 9, 4, 2, 3]
