"""The goldens: what transformers makes of the cases, one compressed file for each tokenizer."""

from __future__ import annotations

import json
import lzma
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tests.parity.templates.cases import FOLDER

GOLDENS = FOLDER / "goldens"
OTHERS = GOLDENS / "others.json"
"""The versions, the ids of a text with other settings, and what transformers makes of the differences."""
REASONS = ("first character", "last character", "character of several tokens")
"""Why a mask of transformers differs from the tokens that the spans share a character with
(`tests.parity.templates.make`).
"""


def names() -> list[str]:
    """The tokenizers that have goldens."""
    return sorted(path.name.removesuffix(".json.xz") for path in GOLDENS.glob("*.json.xz"))


def read(name: str) -> dict[str, Any]:
    """The goldens of a tokenizer.

    ``texts``: the ids of each text. ``cases``: for each template and conversation ``ids``, ``counted`` (the stretches
    of tokens that the mask counts), ``prompt`` (the ids up to the last answer), or the ``error`` of the template. Where
    the mask of transformers leaves out or adds tokens, ``exact`` has the stretches of all tokens that share a character
    with a span, and ``why`` the reasons.
    """
    return json.loads(lzma.decompress((GOLDENS / f"{name}.json.xz").read_bytes()))


def write(name: str, found: dict[str, Any]) -> None:
    """Write the goldens of a tokenizer."""
    GOLDENS.mkdir(exist_ok=True)
    data = json.dumps(found, separators=(",", ":"), sort_keys=True).encode()
    (GOLDENS / f"{name}.json.xz").write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def stretches(mask: Sequence[float]) -> list[list[int]]:
    """The first token of each stretch that counts, and the token after its last one."""
    found: list[list[int]] = []
    place = 0
    for counts, group in groupby(mask):
        length = len(list(group))
        found += [[place, place + length]] * bool(counts)
        place += length
    return found
