"""Prompts of multiple choice: the model answers with the letter of a choice."""

from __future__ import annotations

from collections.abc import Sequence

from halcyon.evals.example import Choice, Prompt


def letter_choice(name: str, question: str, letters: Sequence[str], choices: Sequence[str], gold: int, group: str | None = None) -> Choice:
    """An example of multiple choice.

    The letter stands after its choice, without a space before it, and the answer of a conversation is the letter alone. So the letters of
    prompt and answer are the same token, which small models need.

    Args:
        name: See `Choice`.
        question: The question.
        letters: The letter of each choice.
        choices: The choices.
        gold: The place of the right one.
        group: See `Choice`.
    """
    listed = "".join(f"- {choice}={letter}\n" for letter, choice in zip(letters, choices, strict=True))
    asked = f"Question: {question}\n{listed}"
    content = f"{asked}\nAnswer with the letter of the right choice only."
    return Choice(name, Prompt(({"role": "user", "content": content},), f"{asked}Answer:"), tuple(letters), gold, group)
