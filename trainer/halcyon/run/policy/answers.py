"""The prompts of a batch, and the arrays of prompts with their answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from halcyon.data.dataset import ValidationData
from halcyon.data.layout.prompts import Prompts
from halcyon.data.source_data import BatchRows
from halcyon.inference.rollout import Answered, Prompted


@dataclass(frozen=True)
class Question:
    """A prompt with the reference of its reward.

    Attributes:
        tokens: The tokens of the prompt: int32 [tokens].
        reference: The reference as the row has it; it may be empty.
    """

    tokens: np.ndarray
    reference: str


def questions(data: ValidationData, rows: BatchRows) -> list[Question]:
    """The prompts of some rows. Each row must have a sequence.

    Args:
        data: A data set whose sources hold prompts.
        rows: The rows.
    """
    found: dict[int, Question] = {}
    for index, source in enumerate(data.sources):
        here = np.flatnonzero(rows.source == index)
        layout = source.layout
        if not len(here):
            continue
        if not isinstance(layout, Prompts):
            raise TypeError(f"the source {source.name} has no prompts")
        read = layout.read(source.tokens, rows.sequence[here])
        found |= {row: Question(*one) for row, one in zip(here.tolist(), read, strict=True)}
    return [found[row] for row in range(len(rows))]


def prompted(asked: Sequence[Question], answers: int, width: int, first: int = 0) -> Prompted:
    """The rows of a call: each prompt once for each of its answers, one after the other.

    Args:
        asked: The prompts.
        answers: Answers to each prompt.
        width: Room for a prompt, in tokens.
        first: The number of the first prompt, for the keys.
    """
    tokens = np.zeros((len(asked), width), np.int32)
    for row, one in enumerate(asked):
        tokens[row, : len(one.tokens)] = one.tokens
    counts = np.array([len(one.tokens) for one in asked], np.int32)
    numbers = np.arange(first, first + len(asked), dtype=np.uint32)
    every = np.repeat(np.arange(len(asked)), answers)
    return Prompted(
        tokens[every], counts[every], numbers[every], np.tile(np.arange(answers, dtype=np.uint32), len(asked))
    )


class Rows(NamedTuple):
    """The arrays of a batch: [row, position]."""

    tokens: np.ndarray
    """Inputs: int32."""
    targets: np.ndarray
    """The token after each input: int32."""
    weights: np.ndarray
    """1 where the target is a token that the model sampled: float32."""
    log_probs: np.ndarray
    """The log-probability of the target as it was sampled, 0 where it does not count: float32."""


def rows_of(prompts: Prompted, answered: Answered, length: int, pad: int) -> Rows:
    """Prompts followed by their answers, padded at the end.

    Args:
        prompts: The prompts.
        answered: Their answers.
        length: Positions of a row; a prompt and its answer have at most this number of tokens.
        pad: The token of padding.
    """
    count = len(prompts.counts)
    windows, (sampled, log_probs) = (
        np.full((count, length + 1), pad, np.int32),
        np.zeros((2, count, length + 1), np.float32),
    )
    for row, (before, after) in enumerate(zip(prompts.counts.tolist(), answered.counts.tolist(), strict=True)):
        windows[row, :before] = prompts.tokens[row, :before]
        windows[row, before : before + after] = answered.tokens[row, :after]
        sampled[row, before : before + after] = answered.sampled[row, :after]
        log_probs[row, before : before + after] = answered.log_probs[row, :after]
    return Rows(windows[:, :-1], windows[:, 1:], sampled[:, 1:], log_probs[:, 1:])
