"""``spec.tokenizer``: how text becomes token ids."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from halcyon_api.base import ApiModel, OneOf, optional

VOCABULARY_MULTIPLE = 64
"""The model's vocabulary is that of the tokenizer, rounded up to a multiple of this, so that every usual tensor axis
divides it.
"""

Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\s-].*$")]
"""Address of a file: a path in the trainer's file system (`~`: the home directory), or file://, s3://, gs://, https://
or hf://.
"""

TokenText = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ByteTokenizerSpec(ApiModel):
    """Every byte is a token; three more tokens mark the beginning, the end and padding.

    Needs no training and no download.
    """


class BpeTokenizerSpec(ApiModel):
    """Byte-level BPE, trained once on the run's own sources and kept in its token cache."""

    vocab_size: Annotated[int, Field(ge=512, le=1_000_000)] = Field(
        default=32_768, description="Number of tokens, special tokens and the 256 bytes included."
    )
    sample_bytes: Annotated[int, Field(ge=1, le=1_000_000_000_000)] = Field(
        default=2_000_000_000,
        description="Largest sample to train on, in bytes of text, taken from the sources by weight, in order.",
    )
    special_tokens: Annotated[list[TokenText], Field(max_length=256)] = Field(
        default=[], description="Further special tokens, after the merges, in addition to those of documents and chats."
    )


class TokenizerJsonSpec(ApiModel):
    """A ``tokenizer.json`` as the Hugging Face libraries write it."""

    path: Uri = Field(
        description="The file, or a directory with it: a path, s3://, gs://, https://, or hf://OWNER/NAME."
    )
    beginning: TokenText | None = optional("Token that begins a document. Default: found by the usual names.")
    end: TokenText | None = optional("Token that ends a document. Default: found by the usual names.")


class TiktokenSpec(ApiModel):
    """An encoding of OpenAI's tiktoken."""

    encoding: Literal["gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base"] = Field(
        description="Name of the encoding. It sets the split pattern and the special tokens."
    )
    path: Uri | None = optional("File of mergeable ranks. Default: the file that tiktoken downloads or has cached.")


class SentencePieceSpec(ApiModel):
    """A SentencePiece model."""

    path: Uri = Field(description="The `.model` file.")


class TokenizerSpec(OneOf):
    """The tokenizer: exactly one member."""

    byte: ByteTokenizerSpec | None = optional("One token for each byte of UTF-8, and three special ones.")
    bpe: BpeTokenizerSpec | None = optional("Byte-level BPE trained on the run's own sources.")
    tokenizer_json: TokenizerJsonSpec | None = optional("A `tokenizer.json` file.")
    tiktoken: TiktokenSpec | None = optional("An encoding of tiktoken.")
    sentence_piece: SentencePieceSpec | None = optional("A SentencePiece model.")
