"""Tokenizers in a ``tokenizer.json``, the format of the Hugging Face libraries."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property, partial
from types import MappingProxyType
from typing import Any
from unicodedata import is_normalized

import fastokens
import numpy as np
import tokenizers

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer.byte_level import byte_level_pieces, is_byte_level, is_independent, sentence_piece_pieces
from halcyon.tokenizer.cut import DocumentEncoder, PieceEncoder, find_joint
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.encoders import FastEncoder, ReferenceEncoder, choose_encoder, pair_digits
from halcyon.tokenizer.growth import problem_of
from halcyon.tokenizer.library import LibraryTokenizer, errors_of_library
from halcyon.tokenizer.renamed import RenamedTokenizer, without_special
from halcyon.tokenizer.rendered import EncodedText, RenderedText, encoded
from halcyon.tokenizer.special import find_document_tokens

WHERE = "spec.tokenizer.tokenizerJson"
_NAMED = ("beginning", "end", "bos", "eos", "pad")
"""Options of a definition that name a token."""
_OF_WORDS = frozenset({"Unigram", "WordLevel", None})
"""Models that look up a whole word or any part of it, so they find special tokens in a text.

None: an old file, which may be any.
"""


class JsonTokenizer(LibraryTokenizer):
    """A tokenizer from a ``tokenizer.json``.

    The file's truncation, padding and BPE dropout are ignored, so a text always has the same ids. What its
    post-processor puts around a text is `prefix` and `suffix`.
    """

    where = WHERE

    def __init__(self, definition: TokenizerDefinition) -> None:
        options = definition.options
        document, content, self._post_processor = _read(definition.content, filter(None, map(options.get, _NAMED)))
        self.fingerprint = definition.fingerprint
        self._reference = tokenizers.Tokenizer.from_str(content)
        self._reference.encode_special_tokens = True
        self._content = content
        self._document = document
        self._is_independent = is_independent(document)
        vocabulary = self._reference.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        spellings = [token["content"] for token in document.get("added_tokens") or [] if token.get("special")]
        self.special_tokens: Mapping[str, int] = MappingProxyType(
            {name: vocabulary[name] for name in spellings if name in vocabulary}
        )
        named = (options.get("beginning", options.get("bos")), options.get("end", options.get("eos")))
        self.bos_id, self.eos_id, self.pad_id = find_document_tokens(
            self.special_tokens, WHERE, beginning=named[0], end=named[1], padding=options.get("pad")
        )
        self.ends = tuple(dict.fromkeys((self.eos_id, *definition.ends)))
        self._options = options

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids before and after a text: as the run's document names them, else as the post-processor says."""
        if "beginning" in self._options:
            return () if self.bos_id is None else (self.bos_id,), ()
        if self._post_processor is None:
            return (), ()
        whole = tokenizers.Tokenizer.from_str(
            json.dumps(self._document | {"post_processor": self._post_processor}, ensure_ascii=False)
        )
        # Any text that has a token in every vocabulary.
        text = next(spelling for spelling, token in self.special_tokens.items() if token == self.eos_id)
        with errors_of_library(WHERE):
            encoding = whole.encode(text)
        own = [place for place, added in enumerate(encoding.special_tokens_mask) if not added]
        return tuple(encoding.ids[: own[0]]), tuple(encoding.ids[own[-1] + 1 :])

    @property
    def prefix(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Ids before each text."""
        return self._around[0]

    @property
    def suffix(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Ids after each text."""
        return self._around[1]

    @cached_property
    def _chosen(self) -> PieceEncoder:
        """The encoder, made for the first text.

        A run with complete token caches never needs it, so it starts faster.
        """
        plain = cache(lambda: FastEncoder(fastokens.Tokenizer.from_json_str(self._content)))
        makers = [lambda: pair_digits(self._content, plain()), plain]
        reference = ReferenceEncoder(self._reference)
        return choose_encoder(makers, reference, self.special_tokens, "this tokenizer.json", "tokenizers")

    @cached_property
    def _documents(self) -> DocumentEncoder:
        encode = self._chosen
        if self._document["model"].get("type") in _OF_WORDS:
            encode = partial(without_special, encode, self._is_special, self._renamed)
        return DocumentEncoder(encode, find_joint(ReferenceEncoder(self._reference)))

    def pieces(self) -> list[bytes]:
        """The bytes of text of each id; none for special tokens."""
        vocabulary = self._reference.get_vocab(with_added_tokens=False)
        spelt = byte_level_pieces if is_byte_level(self._document) else sentence_piece_pieces
        pieces = dict(zip(vocabulary.values(), spelt(vocabulary), strict=True))
        for token in self._document.get("added_tokens") or []:
            content: str = token["content"]
            place: int = vocabulary[content] if content in vocabulary else token["id"]
            pieces[place] = b"" if token.get("special") else content.encode()
        return [pieces.get(token, b"") for token in range(self.vocab_size)]

    def encode_rendered(self, texts: Sequence[RenderedText]) -> list[EncodedText]:
        """Token ids of rendered templates, with the characters of each token."""
        kept = [place for place, rendered in enumerate(texts) if self._keeps_bytes(rendered.text)]
        encodings = dict(zip(kept, super().encode_rendered([texts[place] for place in kept]), strict=True))
        with errors_of_library(WHERE):
            for place, rendered in enumerate(texts):
                if place not in encodings:
                    encodings[place] = self._encode_whole(rendered)
        return [encodings[place] for place in range(len(texts))]

    def _encode_whole(self, rendered: RenderedText) -> EncodedText:
        if not rendered.spells:
            encoding = self._marked.encode(rendered.text, add_special_tokens=False)
            known = encoded(encoding.ids, encoding.offsets)
            if known.has_only(rendered.special, self._is_special):
                return known
        return self._renamed.encode(rendered)

    def _keeps_bytes(self, text: str) -> bool:
        """Whether a text can be encoded between its special tokens, which is faster."""
        return self._is_independent and (
            text.isascii() or self._document.get("normalizer") is None or is_normalized("NFC", text)
        )

    @cached_property
    def _is_special(self) -> np.ndarray:
        """Whether each id is a special token that only a template spells: bool [vocabulary].

        Text may have the token for unknown words.
        """
        is_special = np.zeros(self.vocab_size, bool)
        is_special[list(self.special_tokens.values())] = True
        model = self._document["model"]
        unknown = model.get("unk_id", self._reference.token_to_id(model.get("unk_token") or ""))
        if unknown is not None:
            is_special[unknown] = False
        return is_special

    @cached_property
    def _marked(self) -> tokenizers.Tokenizer:
        """The library's tokenizer that recognises special tokens."""
        return tokenizers.Tokenizer.from_str(self._content)

    @cached_property
    def _renamed(self) -> RenamedTokenizer:
        return RenamedTokenizer(self._document, self.special_tokens)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of token ids; special tokens are left out."""
        with errors_of_library(WHERE):
            return self._reference.decode(np.asarray(tokens).tolist(), skip_special_tokens=True)


def _read(content: bytes, named: Iterable[str]) -> tuple[dict[str, Any], str, Any]:
    """The document, its JSON without the settings that would make ids depend on more than the text, and its
    post-processor.

    Added tokens that have a role by their name are special, whatever the file says.
    """
    try:
        document = json.loads(content)
        if not isinstance(document, dict) or not isinstance(document.get("model"), dict):
            raise ValueError("there is no model in it")
        if (problem := problem_of(document)) is not None:
            raise BadConfiguration(f"{WHERE}.path: {problem}; use another tokenizer")
        post_processor = document.get("post_processor")
        document |= {"truncation": None, "padding": None, "post_processor": None}
        if document["model"].get("dropout"):
            document["model"]["dropout"] = None
        names = set(named)
        for token in document.get("added_tokens") or []:
            token["special"] = bool(token.get("special")) or token["content"] in names
        text = json.dumps(document, ensure_ascii=False)
        tokenizers.Tokenizer.from_str(text)
    except BadConfiguration:
        raise
    except Exception as error:  # tokenizers raises bare exceptions
        raise BadConfiguration(
            f"{WHERE}.path: this is not a tokenizer.json that the tokenizers library reads ({error})"
        ) from None
    return document, text, post_processor
