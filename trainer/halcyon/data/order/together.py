"""Evaluates many permutations together.

A step takes a few sequences from each of many sources, and each source has its own permutation. A permutation of
sixteen numbers costs as much as one of a thousand, because nearly all of the time is the overhead of the calls. So the
numbers of all sources are evaluated together, each with the keys of its own permutation. An order is a generator that
yields a question and receives the answer, so it does not depend on the other orders.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from halcyon.data.order.permutation import ROUNDS, Cipher, Permutation, pass_through

_FEW = 2048
"""A question with more numbers than this is cheaper alone: separate keys for each number would no longer fit in the
processor's cache.
"""
_TOGETHER = 16384


class PermutationQuery(NamedTuple):
    """Asks for the elements at indices or, if ``inverse``, for the indices of elements."""

    permutation: Permutation
    numbers: np.ndarray
    """int64 [n]."""
    inverse: bool = False


PermutationQueries = Generator[PermutationQuery, np.ndarray, np.ndarray]
"""Yields questions, receives their answers, returns its own result."""


def run_queries(asking: Sequence[PermutationQueries]) -> list[np.ndarray]:
    """Run generators to their ends and return their results, in order.

    In each round their questions are answered together.
    """
    results: dict[int, np.ndarray] = {}
    answers: dict[int, np.ndarray | None] = dict.fromkeys(range(len(asking)))
    while answers:
        questions: dict[int, PermutationQuery] = {}
        for number, answer in answers.items():
            try:
                questions[number] = next(asking[number]) if answer is None else asking[number].send(answer)
            except StopIteration as end:
                results[number] = end.value
        answers = dict(zip(questions, evaluate_all(list(questions.values())), strict=True))
    return [results[number] for number in range(len(asking))]


def evaluate_all(questions: Sequence[PermutationQuery]) -> list[np.ndarray]:
    """The answers, int64 with the lengths of the questions' numbers, equal to those of each permutation alone.

    Raises:
        IndexError: A number is outside its permutation.
    """
    answers: dict[int, np.ndarray] = {}
    for inverse in (False, True):
        few = [
            at
            for at, one in enumerate(questions)
            if one.inverse is inverse and len(one.numbers) <= _FEW and one.permutation.is_walked
        ]
        if len(few) > 1:
            answers |= zip(few, _together([questions[at] for at in few], inverse=inverse), strict=True)
    for at, (permutation, numbers, inverse) in enumerate(questions):
        if at not in answers:
            answers[at] = permutation.inverse(numbers) if inverse else permutation(numbers)
    return [answers[at] for at in range(len(questions))]


def _together(questions: Sequence[PermutationQuery], *, inverse: bool) -> list[np.ndarray]:
    counts = np.array([len(question.numbers) for question in questions])
    owners = np.repeat(np.arange(len(questions)), counts)
    sizes = np.array([question.permutation.size for question in questions], np.uint64)
    ciphers = _stacked([question.permutation.cipher for question in questions])
    walked = np.concatenate([question.numbers for question in questions]).astype(
        np.uint64
    )  # negative numbers become very large
    rounds = range(ROUNDS)[::-1] if inverse else range(ROUNDS)
    outside = np.flatnonzero(walked >= sizes[owners])
    if len(outside):
        raise IndexError(f"an index is outside [0, {sizes[owners[outside[0]]]})")
    for first in range(0, len(walked), _TOGETHER):
        part, whose = walked[first : first + _TOGETHER], owners[first : first + _TOGETHER]
        left = np.arange(len(part))
        again = part.copy()
        while len(left):
            pass_through(again, _chosen(ciphers, whose[left]), rounds)
            part[left] = again  # numbers that are still outside are overwritten by their next pass
            still = np.flatnonzero(again >= sizes[whose[left]])
            left, again = left[still], again[still]
    return np.split(walked.view(np.int64), np.cumsum(counts)[:-1])


def _stacked(ciphers: Sequence[Cipher]) -> Cipher:
    """Ciphers of many permutations as one: the last axis of every field is the permutation."""
    return Cipher(*(np.stack(fields, axis=-1) for fields in zip(*ciphers, strict=True)))


def _chosen(ciphers: Cipher, whose: np.ndarray) -> Cipher:
    return Cipher(*(np.take(field, whose, axis=-1) for field in ciphers))
