"""A tokenizer as data, which can be stored, sent and compared without the tokenizer's library.

A definition is a kind, the bytes of the file that defines the vocabulary, and a few options. It can be pickled to
worker processes, stored beside the token cache that was made with it, and compared by its fingerprint, which depends on
the content and not on the file's location.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["byte", "tokenizerJson", "tiktoken", "sentencePiece"]

ENCODING_VERSION = 1
"""Part of every fingerprint: increased when Halcyon's own rules for ids change, such as the rules for cutting very long
documents.
"""


@dataclass(frozen=True, slots=True)
class TokenizerDefinition:
    """Everything that decides the ids of a text."""

    kind: Kind
    content: bytes = field(default=b"", repr=False)
    """The file: a ``tokenizer.json``, tiktoken's mergeable ranks, or a SentencePiece model.

    Empty for the byte tokenizer.
    """
    options: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Settings that are not in the file:

    - ``beginning``, ``end``: spellings of the tokens that begin and end each document, as the run's document or a
      training names them.
    - ``bos``, ``eos``, ``pad``: those that tokenizer_config.json names; empty: it has none. They say nothing about what
      stands before a text.
    - ``added``: tokens that the files beside a SentencePiece model name, as a JSON object with their ids; null: the
      next free one. Those of a tokenizer.json are in its content.
    - ``addBos``, ``addEos``: whether they stand before and after each text of a SentencePiece model, where
      tokenizer_config.json says so: ``true`` or ``false``. A tokenizer.json says it itself, by its post-processor.
    - ``encoding``: name of one of tiktoken's encodings.
    """
    ends: tuple[int, ...] = ()
    """Ids that end what a model generates, by its generation_config.json. They decide no id of a text, so the
    fingerprint is without them.
    """

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the definition."""
        head = {
            "version": ENCODING_VERSION,
            "kind": self.kind,
            "options": dict(self.options),
            "size": len(self.content),
        }
        digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
        digest.update(b"\n")
        digest.update(self.content)
        return digest.hexdigest()


BYTE = TokenizerDefinition("byte")
"""The byte tokenizer's definition."""
