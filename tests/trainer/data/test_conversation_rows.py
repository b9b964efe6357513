"""The batches of objectives that keep conversations whole: which tokens count, how conversations and pairs are weighted
and separated.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from halcyon.data.dataset import Dataset
from halcyon.data.examples import Examples
from halcyon.host.errors import BadConfiguration
from halcyon_api.training_run import TrainingRunSpec
from tests.trainer.data.corpus import at
from tests.trainer.support.datasets import open_dataset

SPEECH = "abcdefghijklmnopqrstuvwxyz "
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'user' %}{{ message.content }}{% else %}{% for part in "
    "message.content %}{% if part.type == 'python_output' %}{{ part.text }}{% else %}{% generation %}{{ part.text }}{% "
    "endgeneration %}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)
CHAT: dict[str, Any] = {"chat": {"template": TEMPLATE}}
PAIRS: dict[str, Any] = {"preference": {"template": TEMPLATE}}


def speech(number: int, size: int) -> str:
    return (SPEECH[number % 27 :] + SPEECH * (size // 27 + 1))[:size]


def talk(number: int, question: int, answer: int) -> list[dict[str, Any]]:
    """A conversation whose answer calls a tool: the output of the tool is not the assistant's."""
    parts = [
        {"type": "text", "text": speech(number, answer)},
        {"type": "python", "text": f"{number}+1"},
        {"type": "python_output", "text": "OUTPUT"},
    ]
    return [{"role": "user", "content": "ASKED " + speech(number, question)}, {"role": "assistant", "content": parts}]


def opened(
    tmp_path: Path, rows: Sequence[Any], objective: dict[str, Any], form: dict[str, Any], length: int, **trainer: Any
) -> Dataset:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = TrainingRunSpec.model_validate(
        {
            "accelerator": {"type": "cpu"},
            "model": {"family": "llama"},
            "data": {
                "sources": [{"name": "talk", "jsonl": {"paths": [str(path)]}, "format": form}],
                "validation": {"fraction": 0.0},
                "cache": {"workers": 1},
                # An order that would let another run begin before its cache is complete.
                "order": {"sequential": {}},
            },
            "objective": objective,
            "trainer": {"steps": 1, "batchSize": 1, "sequenceLength": length} | trainer,
            "checkpoint": {"root": f"file://{tmp_path / 'root'}"},
        }
    )
    return open_dataset(spec)


def every_row(dataset: Dataset) -> Examples:
    return at(dataset, np.arange(sum(source.used for source in dataset.sources)))


def counted_text(dataset: Dataset, examples: Examples) -> str:
    return dataset.tokenizer.decode(examples.targets[examples.weights > 0])


TALKS = [{"messages": talk(number, question=5 + 7 * number % 60, answer=1 + 11 * number % 50)} for number in range(30)]


@pytest.mark.parametrize("length", [2, 3, 40, 128, 512])
def test_every_row_counts_and_only_the_assistant_counts_at_any_sequence_length(tmp_path: Path, length: int) -> None:
    """Questions are up to 70 tokens long, so short rows would hold questions alone if the rows were cut from their
    beginnings.
    """
    dataset = opened(tmp_path, TALKS, {"finetune": {}}, CHAT, length)
    assert not dataset.streams
    examples = every_row(dataset)
    assert (examples.weights.sum(axis=1) > 0).all()
    text = counted_text(dataset, examples)
    assert "ASKED" not in text
    assert "OUTPUT" not in text
    shares = examples.conversation_weights
    conversations = len(
        {
            (row, segment)
            for row, place in np.argwhere(examples.weights > 0)
            for segment in [examples.segments[row, place]]
        }
    )
    assert conversations == len(TALKS)
    assert shares.sum() == pytest.approx(len(TALKS), rel=1e-5)
    np.testing.assert_array_equal(shares > 0, examples.weights > 0)
    if length >= 512:
        assert text.count("+1") == len(TALKS)


def test_conversations_of_a_row_are_separate_without_a_token_that_begins_them(tmp_path: Path) -> None:
    dataset = opened(tmp_path, TALKS, {"finetune": {}}, CHAT, 300)
    examples = every_row(dataset)
    begins = np.diff(examples.segments, axis=1, prepend=0) != 0
    there = examples.tokens != dataset.tokenizer.pad_id
    asked = np.frombuffer(b"ASKED", np.uint8)
    first = np.zeros_like(there)
    first[:, : 1 - len(asked)] = (
        np.lib.stride_tricks.sliding_window_view(examples.tokens, len(asked), axis=1) == asked
    ).all(-1)
    np.testing.assert_array_equal(begins & there, first & there)
    np.testing.assert_array_equal(examples.positions == 0, begins)


def test_a_pair_is_two_documents_of_one_row_in_order(tmp_path: Path) -> None:
    pairs = [{"chosen": talk(n, 6, 9), "rejected": talk(n + 100, 6, 4)} for n in range(5)]
    examples = every_row(dataset := opened(tmp_path, pairs, {"preference": {"simpo": {}}}, PAIRS, 160))
    assert len(examples) == len(pairs)
    for row in range(len(pairs)):
        texts = [
            dataset.tokenizer.decode(examples.targets[row][(examples.weights[row] > 0) & (examples.segments[row] == n)])
            for n in (1, 2)
        ]
        assert f"{row}+1" in texts[0]
        assert f"{row + 100}+1" in texts[1]
    several = opened(tmp_path, pairs, {"preference": {"simpo": {}, "pairsPerRow": 3}}, PAIRS, 400)
    assert sum(source.used for source in several.sources) == 2


def test_a_source_without_a_token_that_counts_is_an_error(tmp_path: Path) -> None:
    ids = [{"tokens": [1, 2, 3], "weights": [0, 0, 0]}]
    with pytest.raises(BadConfiguration, match=r"sources\[talk\]: no row would have a token that counts"):
        opened(tmp_path, ids, {"finetune": {}}, {"prebuilt": {"weightsField": "weights"}}, 8)
