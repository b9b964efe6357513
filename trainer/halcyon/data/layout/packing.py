"""The packing of an objective that keeps conversations whole: it takes the place of the layouts of the sources."""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_api.spec.objective import ObjectiveSpec

_PAIR_BUFFER = 1000
"""Number of pairs to choose the best fit from, where a row may hold several."""


@dataclass(frozen=True)
class OnePrompt:
    """One prompt in each sequence, with room for an answer.

    Attributes:
        answer_tokens: Most tokens of an answer.
    """

    answer_tokens: int


@dataclass(frozen=True)
class Packing:
    """How conversations become rows.

    Attributes:
        conversations: Conversations of a unit, which is in one row: 1, or 2 for a pair.
        units_per_row: Largest number of units in a row; None: no limit.
        buffer: Number of units to choose the best fit from.
    """

    conversations: int
    units_per_row: int | None
    buffer: int


def packing_of(objective: ObjectiveSpec) -> Packing | OnePrompt | None:
    """The packing of an objective; None: the sources have layouts of their own."""
    if (policy := objective.policy) is not None:
        return OnePrompt(policy.max_tokens)
    if (finetune := objective.finetune) is not None:
        return Packing(1, None, finetune.buffer)
    if (preference := objective.preference) is not None:
        # A row of one pair has no fit to choose, so the pairs keep their order.
        return Packing(2, preference.pairs_per_row, 1 if preference.pairs_per_row == 1 else _PAIR_BUFFER)
    return None
