"""Each document in a packed row is predicted only from itself: its loss is the same as in a row with no other
document.
"""

from __future__ import annotations

import contextlib

import jax
import numpy as np
import pytest

from halcyon.data.examples import Examples, examples_of
from halcyon.models.parts.attention_choice import Target, attending
from halcyon.parallel.partition import computing
from halcyon_api.spec.attention import AttentionName
from halcyon_api.spec.families.section import ModelSection
from tests.trainer.models.cases import GPT2, LENGTH, LLAMA, VOCAB, logits, loss_and_gradient, make, named
from tests.trainer.models.gpus import interpreted_triton
from tests.trainer.support.meshes import mesh_from

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
    return examples_of(
        windows, np.array(lengths), np.ones(windows.shape), PAD, np.cumsum(windows == BOS, axis=1, dtype=np.int32) - 1
    )


def losses(spec: ModelSection, examples: Examples, *, with_segments: bool) -> np.ndarray:
    """Loss of each document, [row, document]."""
    found = logits(make(spec), named(examples.tokens), named(examples.segments) if with_segments else None)
    nats = -np.asarray(jax.nn.log_softmax(found))
    weighted = np.take_along_axis(nats, examples.targets[..., None], axis=-1)[..., 0] * examples.weights
    return np.stack([np.where(examples.segments == number, weighted, 0).sum(axis=1) for number in (1, 2, 3)], axis=1)


ROWS = packed(DOCUMENTS, OTHERS, *((document,) for document in DOCUMENTS))


@pytest.mark.parametrize("spec", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_a_document_in_a_packed_row_is_predicted_from_itself_alone(spec: ModelSection) -> None:
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


IMPLEMENTATIONS: dict[AttentionName, tuple[int, str, Target, str]] = {
    "reference": (300, "float32", Target("cpu"), "data 1"),
    "blockwise": (1300, "float32", Target("cpu"), "data 1"),
    "ring": (1280, "float32", Target("cpu"), "context 2"),
    "splash": (256, "bfloat16", Target("cpu", interpret=True), "data 1"),
    "tokamax": (300, "bfloat16", Target("gpu", (8, 0)), "data 1"),
}
"""Positions, type, device and mesh of each implementation."""


@pytest.mark.parametrize(
    "name",
    [
        "reference",
        "blockwise",
        "ring",
        pytest.param("splash", marks=pytest.mark.slow),
        pytest.param("tokamax", marks=pytest.mark.slow),
    ],
)
def test_other_tokens_of_one_document_change_no_bit_of_the_losses_and_gradients_of_the_others(
    name: AttentionName,
) -> None:
    length, dtype, target, mesh = IMPLEMENTATIONS[name]
    noise = np.random.default_rng(3)
    tokens, targets, others = noise.integers(0, VOCAB.size, (3, 2, length), np.int32)
    segments = np.searchsorted([length // 5, length // 2 + 7, length - 9], np.arange(length), side="right").astype(
        np.int32
    )
    segments = np.stack((segments, segments // 2))
    flipped = segments == 1
    weights = np.where(flipped, 0.0, noise.random((2, length))).astype(np.float32)

    compute = jax.jit(loss_and_gradient, static_argnames="dtype")

    def run(tokens: np.ndarray) -> tuple[float, list[np.ndarray]]:
        (loss, _), gradient = compute(
            make(LLAMA, length), named(tokens), named(targets), named(weights), named(segments), dtype=dtype
        )
        return float(loss), [np.asarray(leaf) for leaf in jax.tree.leaves(gradient)]

    interpreted = interpreted_triton() if name == "tokamax" else contextlib.nullcontext()
    with computing(mesh_from(mesh)), attending(name, target), interpreted:
        (loss, gradients), (changed_loss, changed) = run(tokens), run(np.where(flipped, others, tokens))
        seen, _ = run(np.where(segments == 0, others, tokens))
    assert loss == changed_loss
    assert all(np.array_equal(one, other) for one, other in zip(gradients, changed, strict=True))
    assert seen != loss, "the tokens of a document that counts must change the loss"
