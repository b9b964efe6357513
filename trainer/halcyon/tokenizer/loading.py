"""Makes the tokenizer of a definition. Imports only the library of its kind."""

from __future__ import annotations

from halcyon.tokenizer.byte import ByteTokenizer
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.protocol import Tokenizer


def load(definition: TokenizerDefinition) -> Tokenizer:
    """Make the tokenizer. The last one is kept, because it takes a second to make.

    Raises:
        BadConfiguration: The file is not of the definition's kind.
    """
    global _loaded
    kept, key = (
        _loaded,
        (definition.fingerprint, definition.ends),
    )  # models with the same tokenizer may end answers at other tokens
    if kept is None or kept[0] != key:
        kept = _loaded = (key, _load(definition))
    return kept[1]


_loaded: tuple[tuple[str, tuple[int, ...]], Tokenizer] | None = None


def _load(definition: TokenizerDefinition) -> Tokenizer:
    match definition.kind:
        case "byte":
            return ByteTokenizer(definition.fingerprint)
        case "tokenizerJson":
            from halcyon.tokenizer.tokenizer_json import JsonTokenizer

            return JsonTokenizer(definition)
        case "tiktoken":
            from halcyon.tokenizer.tiktoken_ranks import TiktokenTokenizer

            return TiktokenTokenizer(definition)
        case "sentencePiece":
            from halcyon.tokenizer.sentence_piece import SentencePieceTokenizer

            return SentencePieceTokenizer(definition)
