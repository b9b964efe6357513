"""Encodes rendered texts in which a message spells a special token: a copy of the tokenizer knows the special tokens by
other spellings.

The special tokens of the template get these spellings before the text is encoded, so the spelling in the message is a
word like others. Each consists of a character for private use between noncharacters. These are more in a row than
anywhere in the text, so no text has them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import tokenizers

from halcyon.tokenizer.cut import PieceEncoder
from halcyon.tokenizer.rendered import EncodedText, RenderedText, encoded

_OUTER, _FIRST = "\ufdd6", 0xF0000
_IN_A_ROW = re.compile(f"{_OUTER}+")


class RenamedTokenizer:
    """Copies of a tokenizer with other spellings of its special tokens.

    Args:
        document: The tokenizer.json.
        special: Id of each special token by its spelling.
    """

    def __init__(self, document: Mapping[str, Any], special: Mapping[str, int]) -> None:
        self._document = document
        self._special = special
        self._copy = cache(self._made)

    def encode(self, rendered: RenderedText) -> EncodedText:
        """The ids of a text; its spellings outside of ``special`` are words."""
        longest = max(map(len, _IN_A_ROW.findall(rendered.text)), default=0)
        names, library, ids = self._copy(1 << longest.bit_length())
        parts: list[str] = []
        places: list[np.ndarray] = []  # in the text, of each character of the renamed text
        before = 0
        for start, end in rendered.special:
            name = names[rendered.text[start:end]]
            parts += [rendered.text[before:start], name]
            places += [np.arange(before, start), np.full(len(name), start)]
            before = end
        parts.append(rendered.text[before:])
        places.append(np.arange(before, len(rendered.text) + 1))
        encoding = library.encode("".join(parts), add_special_tokens=False)
        inside = encoded(encoding.ids, encoding.offsets)
        where = np.concatenate(places)
        return EncodedText(ids[inside.tokens], where[inside.starts], where[inside.ends])

    def _made(self, width: int) -> tuple[Mapping[str, str], tokenizers.Tokenizer, np.ndarray]:
        """The other spellings, which have this number of noncharacters at each side: a power of two, so there are few
        copies; the copy; and the id of the tokenizer for each id of the copy.
        """
        outer = _OUTER * width
        names = {spelling: f"{outer}{chr(_FIRST + number)}{outer}" for number, spelling in enumerate(self._special)}
        library = tokenizers.Tokenizer.from_str(json.dumps(_renamed(self._document, names), ensure_ascii=False))
        if any(name not in _normalized(library, name) for name in names.values()):
            library = tokenizers.Tokenizer.from_str(
                json.dumps(_renamed(self._document, names, {"normalized": False}), ensure_ascii=False)
            )
        known = library.get_vocab(with_added_tokens=True)
        ids = np.arange(max(known.values()) + 1, dtype=np.int32)
        for spelling, token in self._special.items():
            ids[known[names[spelling]]] = token
        return names, library, ids


def without_special(
    encode: PieceEncoder, is_special: np.ndarray, renamed: RenamedTokenizer, texts: Sequence[str]
) -> list[np.ndarray]:
    """Ids of each text, int32, without special tokens, by a model that has special tokens among the words it knows,
    such as Unigram.

    Args:
        encode: Encodes texts.
        is_special: Whether each id is a special token that no text has: bool [vocabulary].
        renamed: Encodes the texts in which the model found such a token.
        texts: The texts.
    """
    return [
        renamed.encode(RenderedText(text, ())).tokens if is_special[ids].any() else ids
        for text, ids in zip(texts, encode(texts), strict=True)
    ]


def _normalized(library: tokenizers.Tokenizer, text: str) -> str:
    return text if library.normalizer is None else library.normalizer.normalize_str(text)


def _renamed(
    document: Mapping[str, Any], names: Mapping[str, str], options: Mapping[str, bool] | None = None
) -> dict[str, Any]:
    """The tokenizer.json with other spellings, and other options of the special tokens."""
    model = dict(document["model"])
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): token for piece, token in vocabulary.items()}
    elif isinstance(vocabulary, list):  # of Unigram: pieces with scores
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    added = [
        {**token, **(options or {}), "content": names[token["content"]]} if token["content"] in names else token
        for token in document.get("added_tokens") or []
    ]
    return {**document, "model": model, "added_tokens": added}
