"""The files of conversations, by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from halcyon.commands.chat_data import library, small_talk, spelling
from halcyon.commands.chat_data.rows import lines, row
from halcyon.data.sources.stdlib import documentation

NAMES = ("small-talk.jsonl", "library.jsonl", "spelling.jsonl", "questions.jsonl", "words.txt")
COUNTED, ROLLOUTS = 4000, 1000
"""Questions about letters for finetuning, and others for reinforcement learning."""


def files(root: Path | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file.

    Args:
        root: Folder of the standard library. Default: that of this interpreter.

    Raises:
        Unreadable: This Python has no documentation.
    """
    questions = list(library.conversations(root))
    texts = [*documentation().values(), *(answer for turns in questions for _, answer in turns)]
    words = spelling.words_of(texts)
    spelled = [*spelling.spelled(words.train), *spelling.counted(words.train, "train", COUNTED)]
    contents = (
        lines(map(row, small_talk.conversations())),
        lines(map(row, questions)),
        lines(map(row, spelled)),
        lines(map(row, spelling.counted(words.train, "rollouts", ROLLOUTS))),
        lines(words.test),
    )
    yield from zip(NAMES, contents, strict=True)
