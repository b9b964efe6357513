"""``spec.tokenizer``: how text becomes token ids."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from halcyon_api.base import MAX_FILE_NAME_BYTES, ApiModel, OneOf

VOCABULARY_MULTIPLE = 64
"""The model's vocabulary is that of the tokenizer, rounded up to a multiple of this, so that every usual tensor axis
divides it.
"""


def _named(uri: str) -> str:
    local = "://" not in uri or uri.startswith("file://")
    if "\0" in uri or (local and any(len(name.encode()) > MAX_FILE_NAME_BYTES for name in uri.split("/"))):
        raise ValueError("has a name that no file system allows: longer than 255 bytes, or with a NUL")
    return uri


Uri = Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^[^\s-].*$"), AfterValidator(_named)]
"""Address of a file: a path in the trainer's file system (`~`: the home directory), or file://, s3://, gs://, https://
or hf://.
"""

MASKS = ("[MASK]", "<mask>", "<|mask|>")
"""The usual names of the token in the place of a hidden one."""
TokenText = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class ByteTokenizerSpec(ApiModel):
    """Every byte is a token; three more tokens mark the beginning, the end and padding.

    Needs no training and no download.
    """


class BpeTokenizerSpec(ApiModel):
    """Byte-level BPE, trained once on the run's own sources and kept in its token cache."""

    vocab_size: Annotated[int, Field(ge=512, le=1_000_000)] = 32_768
    """Number of tokens, special tokens and the 256 bytes included."""
    sample_bytes: Annotated[int, Field(ge=1, le=1_000_000_000_000)] = 2_000_000_000
    """Largest sample to train on, in bytes of text, taken from the sources by weight, in order."""
    special_tokens: list[TokenText] = Field(default=[], max_length=256)
    """Further special tokens, after the merges, in addition to those of documents and chats."""


class TokenizerJsonSpec(ApiModel):
    """A ``tokenizer.json`` as the Hugging Face libraries write it."""

    path: Uri
    """The file, or a directory with it: a path, s3://, gs://, https://, or hf://OWNER/NAME."""
    beginning: TokenText | None = None
    """Token that begins a document. Default: found by the usual names."""
    end: TokenText | None = None
    """Token that ends a document. Default: found by the usual names."""


class TiktokenSpec(ApiModel):
    """An encoding of OpenAI's tiktoken."""

    encoding: Literal["gpt2", "r50k_base", "p50k_base", "cl100k_base", "o200k_base"]
    """Name of the encoding. It sets the split pattern and the special tokens."""
    path: Uri | None = None
    """File of mergeable ranks. Default: the file that tiktoken downloads or has cached."""


class SentencePieceSpec(ApiModel):
    """A SentencePiece model."""

    path: Uri
    """The `.model` file."""


class TokenizerSpec(OneOf):
    """The tokenizer: exactly one member."""

    byte: ByteTokenizerSpec | None = None
    """One token for each byte of UTF-8, and three special ones."""
    bpe: BpeTokenizerSpec | None = None
    """Byte-level BPE trained on the run's own sources."""
    tokenizer_json: TokenizerJsonSpec | None = None
    """A `tokenizer.json` file."""
    tiktoken: TiktokenSpec | None = None
    """An encoding of tiktoken."""
    sentence_piece: SentencePieceSpec | None = None
    """A SentencePiece model."""
