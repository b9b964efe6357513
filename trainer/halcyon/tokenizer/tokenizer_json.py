"""Tokenizers in a ``tokenizer.json``, the format of the Hugging Face libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import tokenizers

from halcyon.errors import BadConfiguration
from halcyon.tokenizer.byte_level import byte_level_pieces, byte_level_sizes, sentence_piece_pieces, sentence_piece_sizes
from halcyon.tokenizer.choose import choose_encoder
from halcyon.tokenizer.cut import find_joint
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.encoders import FastEncoder, ReferenceEncoder
from halcyon.tokenizer.library import LibraryTokenizer
from halcyon.tokenizer.probe import PROSE
from halcyon.tokenizer.special import find_document_tokens
from halcyon.tokenizer.text import DocumentEncoder, PieceEncoder

WHERE = "spec.tokenizer.tokenizerJson"


class JsonTokenizer(LibraryTokenizer):
    """A tokenizer from a ``tokenizer.json``.

    The file's truncation, padding, post-processor (which adds tokens around a text) and BPE dropout are ignored, so a text always has the
    same ids.
    """

    def __init__(self, definition: TokenizerDefinition) -> None:
        document, content, self._post_processor = _read(definition.content)
        self.fingerprint = definition.fingerprint
        self._reference = tokenizers.Tokenizer.from_str(content)
        self._reference.encode_special_tokens = True
        self._marked_reference: tokenizers.Tokenizer | None = None
        self._content = content
        self._document = document
        vocabulary = self._reference.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        spellings = [token["content"] for token in document.get("added_tokens") or [] if token.get("special")]
        self.special_tokens: Mapping[str, int] = MappingProxyType({name: vocabulary[name] for name in spellings if name in vocabulary})
        chosen = find_document_tokens(
            self.special_tokens, WHERE, beginning=definition.options.get("beginning"), end=definition.options.get("end")
        )
        self.bos_id, self.eos_id, self.pad_id = chosen.bos, chosen.eos, chosen.pad

    @cached_property
    def _chosen(self) -> tuple[PieceEncoder, Any]:
        """The encoder and the fast library's tokenizer, made for the first text. A run with complete token caches never needs them, so it
        starts faster."""
        return choose_encoder(self._content, ReferenceEncoder(self._reference), self.special_tokens)

    @property
    def adds_beginning(self) -> bool:
        """Whether the post-processor of the file puts ``bos_id`` before a text."""
        if self._post_processor is None:
            return False
        whole = tokenizers.Tokenizer.from_str(json.dumps(self._document | {"post_processor": self._post_processor}, ensure_ascii=False))
        return whole.encode("a").ids[:1] == [self.bos_id]

    def _make_documents(self) -> DocumentEncoder:
        reference = ReferenceEncoder(self._reference)
        return DocumentEncoder(self._chosen[0], find_joint(lambda text: reference([text])[0], PROSE))

    @property
    def encoder(self) -> str:
        """The library that encodes: ``fastokens`` or ``tokenizers``."""
        return self._chosen[0].name

    def _make_token_bytes(self) -> np.ndarray:
        vocabulary = self._reference.get_vocab(with_added_tokens=False)
        sizes = np.zeros(self.vocab_size, np.int32)
        measure = byte_level_sizes if _is_byte_level(self._document) else sentence_piece_sizes
        sizes[list(vocabulary.values())] = measure(vocabulary)
        for token in self._document.get("added_tokens") or []:
            sizes[vocabulary.get(token["content"], token["id"])] = 0 if token.get("special") else len(token["content"].encode())
        return sizes

    def pieces(self) -> list[bytes]:
        """The bytes of text of each id; none for special tokens."""
        vocabulary = self._reference.get_vocab(with_added_tokens=False)
        spelt = byte_level_pieces if _is_byte_level(self._document) else sentence_piece_pieces
        found = [b""] * self.vocab_size
        for token, piece in zip(vocabulary.values(), spelt(vocabulary), strict=True):
            found[token] = piece
        for token in self._document.get("added_tokens") or []:
            content: str = token["content"]
            place: int = vocabulary[content] if content in vocabulary else token["id"]
            found[place] = b"" if token.get("special") else content.encode()
        return found

    def encode_marked(self, text: str) -> np.ndarray:
        """Token ids of a text; special tokens that it spells are recognised: int32, shape [tokens]."""
        fast = self._chosen[1]
        if fast is not None:
            return FastEncoder(fast, marked=True)([text])[0]
        if self._marked_reference is None:
            self._marked_reference = tokenizers.Tokenizer.from_str(self._content)
        return ReferenceEncoder(self._marked_reference)([text])[0]

    def decode(self, tokens: np.ndarray) -> str:
        """The text of token ids; special tokens are left out."""
        return self._reference.decode(np.asarray(tokens).tolist(), skip_special_tokens=True)


def _read(content: bytes) -> tuple[dict[str, Any], str, Any]:
    """The document, its JSON without the settings that would make ids depend on more than the text, and its post-processor."""
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
            raise ValueError("there is no model in it")
        post_processor = document.get("post_processor")
        document |= {"truncation": None, "padding": None, "post_processor": None}
        if document["model"].get("dropout"):
            document["model"]["dropout"] = None
        text = json.dumps(document, ensure_ascii=False)
        tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare exceptions
        raise BadConfiguration(f"{WHERE}.path: this is not a tokenizer.json that the tokenizers library reads ({error})") from None
    return document, text, post_processor


def _is_byte_level(document: Mapping[str, Any]) -> bool:
    """Whether the vocabulary uses the alphabet of byte-level BPE."""
    parts = [document.get("pre_tokenizer"), document.get("decoder")]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if part.get("type") == "ByteLevel":
                return True
            parts += [*part.get("pretokenizers", []), *part.get("decoders", [])]
    return False
