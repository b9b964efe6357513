"""SentencePiece models (``.model``), unigram or BPE, encoded by SentencePiece itself."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import numpy as np
import sentencepiece

from halcyon.host.errors import BadConfiguration
from halcyon.tokenizer.byte_level import sentence_piece_pieces
from halcyon.tokenizer.cut import DocumentEncoder, find_joint
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.library import LibraryTokenizer
from halcyon.tokenizer.rendered import EncodedText, Range, RenderedText, encoded
from halcyon.tokenizer.special import find_document_tokens

WHERE = "spec.tokenizer.sentencePiece"
_BEFORE = "\ufdd6"
"""Stands before a part that does not begin a text: no piece of a vocabulary has this noncharacter, so it is joined to
nothing.
"""


class SentencePieceTokenizer(LibraryTokenizer):
    """A tokenizer from a SentencePiece model.

    Its control symbols are the special tokens, and those that only the files beside it name; text is never encoded as
    one of them.
    """

    where = WHERE

    def __init__(self, definition: TokenizerDefinition) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(definition.content)
            self._pieces = int(self._processor.vocab_size())
        except RuntimeError as error:
            raise BadConfiguration(
                f"{WHERE}.path: this is not a SentencePiece model ({error}); give the .model file"
            ) from None
        if not self._pieces:
            raise BadConfiguration(
                f"{WHERE}.path: this is not a SentencePiece model (it has no pieces); give the .model file"
            )
        self.fingerprint = definition.fingerprint
        options = definition.options
        known = {self._processor.id_to_piece(index): index for index in range(self._pieces)}
        special = {piece: index for piece, index in known.items() if self._processor.is_control(index)}
        self.vocab_size = self._pieces
        for content, index in json.loads(options.get("added", "{}")).items():
            if content not in known:
                special[content] = self.vocab_size if index is None else int(index)
                self.vocab_size = max(self.vocab_size, special[content] + 1)
        self.special_tokens: Mapping[str, int] = MappingProxyType(special)
        own = {token: name for name, token in self.special_tokens.items()}
        self.bos_id, self.eos_id, self.pad_id = find_document_tokens(
            self.special_tokens,
            WHERE,
            beginning=options.get("bos", own.get(self._processor.bos_id(), "")),
            end=options.get("eos", own.get(self._processor.eos_id())),
            padding=options.get("pad"),
        )
        self.ends = tuple(dict.fromkeys((self.eos_id, *definition.ends)))
        # The tokenizers of Llama 2, Mistral and Gemma put it before a text, unless their tokenizer_config.json says
        # otherwise.
        self.prefix = () if self.bos_id is None or options.get("addBos") == "false" else (self.bos_id,)
        self.suffix = (self.eos_id,) if options.get("addEos") == "true" else ()

    @cached_property
    def _documents(self) -> DocumentEncoder:
        def encode(texts: Sequence[str]) -> list[np.ndarray]:  # on all cores
            return [np.array(ids, np.int32) for ids in self._processor.encode(list(texts), out_type=int)]

        return DocumentEncoder(encode, find_joint(encode))

    def pieces(self) -> list[bytes]:
        """The bytes of text of each id, after SentencePiece's normalisation; none for special tokens."""
        ids = range(self._pieces)
        pieces = [
            b"" if self._processor.is_control(index) or self._processor.is_unknown(index) else piece
            for index, piece in zip(ids, sentence_piece_pieces(map(self._processor.id_to_piece, ids)), strict=True)
        ]
        return pieces + [b""] * (self.vocab_size - self._pieces)

    def encode_rendered(self, texts: Sequence[RenderedText]) -> list[EncodedText]:
        """Token ids of rendered templates, with the characters of each token.

        Only what begins a text has a space before it.
        """
        return [self._encode_rendered(rendered) for rendered in texts]

    def _encode_rendered(self, rendered: RenderedText) -> EncodedText:
        text, place = rendered.text, 0
        tokens: list[int] = []
        offsets: list[Range] = []
        for start, end in [*rendered.special, (len(text), len(text))]:
            if place < start:
                ids, ranges = self._part(text[place:start], begins=place == 0)
                tokens += ids
                offsets += [(first + place, last + place) for first, last in ranges]
            if start < end:
                tokens.append(self.special_tokens[text[start:end]])
                offsets.append((start, end))
            place = end
        return encoded(tokens, offsets)

    def _part(self, part: str, *, begins: bool) -> tuple[list[int], list[Range]]:
        """The ids of a part between special tokens.

        The library takes each part for a text, so one that is none stands after a mark.
        """
        mapping = self._processor.encode_as_offset_mapping(part if begins else f"{_BEFORE}{part}")
        ids, offsets = list(mapping["ids"]), list(mapping["offsets"])
        if not begins:
            first = next(
                (number for number, (_, end) in enumerate(offsets) if end > 0), len(ids) - 1
            )  # the mark, or its last byte
            first += (
                not offsets or offsets[first][1] <= 1
            )  # unknown characters after the mark share its token, which stays
            ids, offsets = ids[first:], [(max(start - 1, 0), end - 1) for start, end in offsets[first:]]
        for number in range(len(ids) - 2, -1, -1):  # the bytes of one character: only the last one has its end
            (start, end), (following, after) = offsets[number : number + 2]
            if start == end == following:
                offsets[number] = (start, after)
        return ids, offsets

    def decode(self, tokens: np.ndarray) -> str:
        """The text of token ids; special tokens are left out."""
        ids = np.asarray(tokens)
        return self._processor.decode(ids[ids < self._pieces].tolist())
