"""A tokenizer as data: what must be kept, sent and compared, before any library is asked to make a tokenizer of it.

A definition is a kind, the bytes of the file that defines the vocabulary, and a few options. It can be pickled to worker processes, kept
beside the token cache that was made with it, and compared by its fingerprint, which depends on the content and not on where it lay.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["byte", "tokenizerJson", "tiktoken", "sentencePiece"]

ENCODING_VERSION = 1
"""Part of every fingerprint: counts the changes of our own rules about ids, such as where very long documents are cut."""


@dataclass(frozen=True, slots=True)
class TokenizerDefinition:
    """All that decides which ids a text gets."""

    kind: Kind
    content: bytes = field(default=b"", repr=False)
    """The file: a ``tokenizer.json``, tiktoken's mergeable ranks, or a SentencePiece model. Empty for bytes."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Settings that are not in the file, such as the spelling of the token that begins a document."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the definition."""
        head = {"version": ENCODING_VERSION, "kind": self.kind, "options": dict(self.options), "size": len(self.content)}
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        digest.update(b"\n")
        digest.update(self.content)
        return digest.hexdigest()


BYTE = TokenizerDefinition("byte")
"""The byte tokenizer's definition."""
