"""Encodes rendered texts in which a message spells a special token: a copy of the tokenizer knows the special tokens by other spellings.

The special tokens of the template get these spellings before the text is encoded, so the spelling in the message is a word like others. The
spellings consist of code points that no text has: noncharacters, and a character for private use between them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tokenizers

from halcyon.tokenizer.rendered import EncodedText, RenderedText, encoded

_OUTER, _FIRST = "\ufdd6", 0xF0000


class RenamedTokenizer:
    """A copy of a tokenizer with other spellings of its special tokens.

    Args:
        document: The tokenizer.json.
        special: Id of each special token by its spelling.
    """

    def __init__(self, document: Mapping[str, Any], special: Mapping[str, int]) -> None:
        self._names = {spelling: f"{_OUTER}{chr(_FIRST + number)}{_OUTER}" for number, spelling in enumerate(special)}
        self._library = tokenizers.Tokenizer.from_str(json.dumps(_renamed(document, self._names), ensure_ascii=False))
        known = self._library.get_vocab(with_added_tokens=True)
        self._ids = np.arange(max(known.values()) + 1, dtype=np.int32)
        for spelling, token in special.items():
            self._ids[known[self._names[spelling]]] = token

    def encode(self, rendered: RenderedText) -> EncodedText:
        """The ids of a text; its spellings outside of ``special`` are words."""
        parts: list[str] = []
        places: list[np.ndarray] = []  # in the text, of each character of the renamed text
        before = 0
        for start, end in rendered.special:
            name = self._names[rendered.text[start:end]]
            parts += [rendered.text[before:start], name]
            places += [np.arange(before, start), np.full(len(name), start)]
            before = end
        parts.append(rendered.text[before:])
        places.append(np.arange(before, len(rendered.text) + 1))
        found = self._library.encode("".join(parts), add_special_tokens=False)
        inside = encoded(found.ids, found.offsets)
        where = np.concatenate(places)
        return EncodedText(self._ids[inside.tokens], where[inside.starts], where[inside.ends])


def _renamed(document: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The tokenizer.json with other spellings."""
    model = dict(document["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): token for piece, token in vocabulary.items()}
    elif isinstance(vocabulary, list):  # of Unigram: pieces with scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = [token | {"content": names.get(token["content"], token["content"])} for token in document.get("added_tokens") or []]
    return {**document, "model": model, "added_tokens": added}
