"""Makes the tokenizer of a definition."""

from functools import lru_cache

from halcyon.tokenizer.byte import ByteTokenizer
from halcyon.tokenizer.definition import TokenizerDefinition
from halcyon.tokenizer.protocol import Tokenizer


@lru_cache(maxsize=1)
def load(definition: TokenizerDefinition) -> Tokenizer:
    """Make the tokenizer. The last one is kept, because it takes a second to make. Imports only the library of its
    kind.

    Raises:
        BadConfiguration: The file is not of the definition's kind.
    """
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
