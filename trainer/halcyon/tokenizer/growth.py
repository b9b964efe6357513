"""Checks a tokenizer.json before a library loads it: ids that would need huge arrays, and steps that make a text very
long.

A normalizer or a decoder is a list of steps, and a step may replace a text by a longer one: forty steps that double a
letter make a terabyte of it. How long a character can become is computed from the last step back, without running one.
Steps that exchange characters, such as Unicode forms, are left out, because their growth is small.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from halcyon.host.limits.sizes import MOST_IDS

MOST_GROWTH = 64
"""Times that a text may become longer by replacements."""
MOST_STEPS = 500
MOST_PREPENDED = 4096
"""Characters that may be put before a text."""
MOST_WORD = 1000
"""Longest word that WordPiece looks up in parts; its time grows with the square."""


_FIELDS = (("normalizer", "normalizers"), ("decoder", "decoders"))
_ENDLESS = 10**15
_MAY_BE_EMPTY = re.compile(r"[*?^$]|\{0|\{,|\\[bBAzZGK]|\|\||\(\||\|\)|^\||\|$|^$")
"""Signs of a regular expression that may match between two characters, so that its replacement is added there."""


def problem_of(document: Mapping[str, Any]) -> str | None:
    """What in a tokenizer.json is over its budget, as a clause with the field; None: nothing.

    Args:
        document: The tokenizer.json. Any of its members may have a wrong type.
    """
    model = document.get("model")
    if isinstance(model, Mapping):
        vocabulary = model.get("vocab")
        ids: list[Any] = list(vocabulary.values()) if isinstance(vocabulary, Mapping) else []
        added = document.get("added_tokens")
        ids += [token.get("id") for token in added if isinstance(token, Mapping)] if isinstance(added, list) else []
        largest = max((token_id for token_id in ids if isinstance(token_id, int)), default=0)
        if largest >= MOST_IDS:
            return f"it has the id {largest}, and ids must be below {MOST_IDS}"
        longest = model.get("max_input_chars_per_word")
        if isinstance(longest, int) and longest > MOST_WORD:
            return f"model.max_input_chars_per_word is {longest}, more than {MOST_WORD}"
    for field, kind in _FIELDS:
        steps = list(_steps(document.get(field), kind))
        if len(steps) > MOST_STEPS:
            return f"{field} has {len(steps):,} steps, more than {MOST_STEPS}"
        growth, prepended = _growth(steps)
        if growth > MOST_GROWTH:
            return f"{field} can make a text {_shown(growth)} times longer, more than {MOST_GROWTH} times"
        if prepended > MOST_PREPENDED:
            return f"{field} puts {_shown(prepended)} characters before a text, more than {MOST_PREPENDED}"
    return None


def _steps(step: Any, kind: str) -> Iterator[Mapping[str, Any]]:
    if not isinstance(step, Mapping):
        return
    parts = step.get(kind) if step.get("type") == "Sequence" else None
    if isinstance(parts, list):
        for part in parts:
            yield from _steps(part, kind)
    else:
        yield step


def _growth(steps: list[Mapping[str, Any]]) -> tuple[int, int]:
    """How many characters one character can become, and how many are put before a text."""
    rest = 1  # what any other character becomes by the later steps
    known: dict[str, int] = {}
    before = 0

    def length(text: str) -> int:
        return min(_ENDLESS, sum(known.get(letter, rest) for letter in text))

    for step in reversed(steps):
        if step.get("type") == "Prepend":
            before += length(str(step.get("prepend", "")))
            continue
        pattern, content = step.get("pattern"), step.get("content")
        if step.get("type") != "Replace" or not isinstance(pattern, Mapping) or not isinstance(content, str):
            continue
        made, literal = length(content), pattern.get("String")
        if isinstance(literal, str) and literal:
            first = literal[0]
            only = len(literal) == 1
            known[first] = made if only else max(made, known.get(first, rest))
            continue
        more = made if literal == "" or _MAY_BE_EMPTY.search(str(pattern.get("Regex", ""))) else 0
        rest = max(rest, made) + more
        known = {one: max(value, made) + more for one, value in known.items()}
    return max([rest, *known.values()]), before


def _shown(number: int) -> str:
    return f"{number:,}" if number < _ENDLESS else f"more than {_ENDLESS:,}"
