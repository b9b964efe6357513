"""SentencePiece models (``.model``), unigram or BPE, encoded by SentencePiece itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import sentencepiece

from halcyon.errors import BadConfiguration
from halcyon.tokenizer.byte_level import sentence_piece_pieces, sentence_piece_sizes
from halcyon.tokenizer.cut import find_joint
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.library import LibraryTokenizer
from halcyon.tokenizer.marks import Marks
from halcyon.tokenizer.probe import PROSE
from halcyon.tokenizer.special import find_document_tokens
from halcyon.tokenizer.text import DocumentEncoder

WHERE = "spec.tokenizer.sentencePiece"


class SentencePieceEncoder:
    """Encodes with ``sentencepiece``, on all cores."""

    name = "sentencepiece"

    def __init__(self, processor: sentencepiece.SentencePieceProcessor) -> None:
        self._processor = processor

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens."""
        return [np.array(ids, np.int32) for ids in self._processor.encode(list(texts), out_type=int)]


class SentencePieceTokenizer(LibraryTokenizer):
    """A tokenizer from a SentencePiece model. Its control symbols are the special tokens; text is never encoded as one of them."""

    encoder = "sentencepiece"

    adds_beginning = True
    """As the tokenizers of Llama 2, Mistral and Gemma do."""

    def __init__(self, definition: TokenizerDefinition) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(definition.content)
            self.vocab_size = int(self._processor.vocab_size())
        except RuntimeError as error:
            raise BadConfiguration(f"{WHERE}.path: this is not a SentencePiece model ({error}); give the .model file") from None
        if not self.vocab_size:
            raise BadConfiguration(f"{WHERE}.path: this is not a SentencePiece model (it has no pieces); give the .model file")
        self.fingerprint = definition.fingerprint
        control = [index for index in range(self.vocab_size) if self._processor.is_control(index)]
        self.special_tokens: Mapping[str, int] = MappingProxyType({self._processor.id_to_piece(index): index for index in control})
        chosen = find_document_tokens(self.special_tokens, WHERE)
        self.bos_id, self.eos_id, self.pad_id = chosen.bos, chosen.eos, chosen.pad
        self._marks = Marks(self.special_tokens)

    def _make_documents(self) -> DocumentEncoder:
        encode_pieces = SentencePieceEncoder(self._processor)
        return DocumentEncoder(encode_pieces, find_joint(lambda text: encode_pieces([text])[0], PROSE))

    def _make_token_bytes(self) -> np.ndarray:  # after SentencePiece's normalisation
        ids = range(self.vocab_size)
        sizes = np.array(sentence_piece_sizes(self._processor.id_to_piece(index) for index in ids), np.int32)
        sizes[[index for index in ids if self._processor.is_control(index) or self._processor.is_unknown(index)]] = 0
        return sizes

    def pieces(self) -> list[bytes]:
        """The bytes of text of each id; none for special tokens."""
        found = sentence_piece_pieces(self._processor.id_to_piece(index) for index in range(self.vocab_size))
        is_text = self.token_bytes > 0
        return [piece if is_text[index] else b"" for index, piece in enumerate(found)]

    def encode_marked(self, text: str) -> np.ndarray:
        """Token ids of a text; special tokens that it spells are recognised: int32, shape [tokens]."""
        return self._marks.encode(text, self.encode_batch)

    def decode(self, tokens: np.ndarray) -> str:
        """The text of token ids; special tokens are left out."""
        return self._processor.decode(np.asarray(tokens).tolist())
