"""Log-likelihoods of many texts at once equal those of each text alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import halcyon
from halcyon.host.errors import BadConfiguration
from halcyon.inference import likelihood
from halcyon.inference.likelihood import Likelihoods, Span
from tests.trainer.weights.folders import GOLDENS

pytestmark = pytest.mark.slow
PLACE = f"hf:{GOLDENS / 'qwen3'}"


def test_batches_have_the_numbers_of_single_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "_SHORTEST", 16)
    model, _ = halcyon.load(PLACE)
    size, positions = model.vocab.size, model.max_position.size
    random = np.random.default_rng(0)
    spans = [
        Span(random.integers(0, size, length).astype(np.int32), start)
        for length, start in [(3, 1), (9, 8), (16, 4), (20, 19), (12, 2)]
    ]
    prefix = random.integers(0, size, 7).astype(np.int32)
    spans += [Span(np.append(prefix, token).astype(np.int32), 7) for token in (3, 5, 8)]  # letters after one text
    greedy = int(np.argmax(np.asarray(halcyon.logits(model, prefix[None]))[0, -1]))
    spans.append(Span(np.append(prefix, greedy).astype(np.int32), 7))
    long = random.integers(0, size, positions + 6).astype(np.int32)
    spans += [Span(long, positions + 2)]  # it loses its beginning
    for text, sizes in (
        (11, (1, 2, 5)),
        (16, (3, 3)),
        (positions - 3, (3, 1)),
    ):  # endings of one text, also at the end of the positions
        begin = random.integers(0, size, text)
        spans += [
            Span(np.concatenate((begin, random.integers(0, size, more))).astype(np.int32), text) for more in sizes
        ]

    monkeypatch.setattr(likelihood, "MAX_LOGIT_BYTES_CPU", size * 4 * 2)  # two positions in a block
    found = Likelihoods(model, batch_tokens=64).scores(spans)
    for span, score in zip(spans, found, strict=True):
        tokens = span.tokens[-(positions + 1) :]
        start = span.start - (len(span.tokens) - len(tokens))
        padded = np.pad(tokens[:-1], (0, positions - len(tokens) + 1))  # one shape: one program
        expected = np.asarray(jax.nn.log_softmax(halcyon.logits(model, padded[None])))[0][start - 1 : len(tokens) - 1]
        targets = tokens[start:]
        np.testing.assert_allclose(score.log_prob, np.take_along_axis(expected, targets[:, None], 1).sum(), rtol=2e-5)
        assert score.tokens == len(targets)
        assert score.is_greedy == bool(np.all(expected.argmax(-1) == targets))
    assert found[8].is_greedy
    again = Likelihoods(model, batch_tokens=64).scores(spans)
    assert again == found
    with pytest.raises(BadConfiguration, match="are scored, and the model has"):
        Likelihoods(model).scores([Span(long, 1, "a.jsonl line 3")])
    with pytest.raises(ValueError, match="the scored part begins at 0"):
        Likelihoods(model).scores([Span(prefix, 0)])
