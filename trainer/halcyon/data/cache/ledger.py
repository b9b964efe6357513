"""What a token cache is made of and what it holds: the one document of a cache that changes, by compare-and-swap alone.

A cache lies under the name of its source. Its ``identity`` is everything that decides a token besides the text itself: tokenizer, format,
the kind of the source and which rows are taken. The text is identified by its files. A run that wants another identity or finds other files
is refused with what differs; nothing is ever rebuilt in silence under a run that has already trained.

A shard is in the ledger or it does not exist. Its name holds the hash of its contents, so two builders that happen to work at the same
time write the same bytes under the same name, and what a killed builder left behind is never mistaken for anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError

from halcyon.data.sources.piece import FilePlace
from halcyon_api.checkpoint_documents import Document, canonical_json
from halcyon_api.spec.sources import DataSourceSpec

LEDGER_KEY = "LEDGER.json"
FORMAT_VERSION = 1


class DamagedLedger(ValueError):
    """The bytes are not a ledger."""


class FileEntry(Document):
    """A file that the cache was made from."""

    uri: str
    size_bytes: int = Field(ge=0)
    version: str = Field(description="Tag of an object, or modification time of a file.")
    sha256: str | None = Field(default=None, description="Hash of the content, where the file is the machine's own.")

    def same(self, other: FileEntry) -> bool:
        """Whether both are the same content, as far as this can be known without reading it."""
        if self.size_bytes != other.size_bytes:
            return False
        return self.version == other.version or (self.sha256 is not None and self.sha256 == other.sha256)


class ShardEntry(Document):
    """A shard: neighbouring documents. One that is longer than a shard lies in several, and counts where it ends."""

    path: str = Field(description="Prefix below the cache, ending with a slash.")
    tokens: int = Field(ge=0)
    documents: int = Field(ge=0)
    rows: int = Field(ge=0, description="Rows that end in it, those without text included.")
    empty_rows: int = Field(ge=0, description="Rows without text, which made no document.")
    size_bytes: int = Field(ge=0, description="Bytes of text.")
    open_tokens: int | None = Field(
        default=None,
        ge=1,
        description="Tokens, those in shards before included, of a document that goes on in the next one. None: none does.",
    )
    last_file: int | None = Field(
        default=None, ge=0, description="Number of the file of its last row, where rows are found only by reading their file."
    )
    rows_before_last_file: int | None = Field(default=None, ge=0, description="Rows of the files before that one.")
    sha256: str = Field(description="Hash of its contents.")
    content_sha256: str | None = Field(
        default=None,
        description="Hash of the contents of all shards up to its end, wherever they were cut. None: written before there was one.",
    )


class Ledger(Document):
    """The state of a cache."""

    format_version: Literal[1] = FORMAT_VERSION
    identity: dict[str, Any]
    token_type: Literal["uint8", "uint16", "uint32"]
    weight_type: Literal["uint8", "float32"] | None = Field(default=None, description="None: every token counts.")
    files: tuple[FileEntry, ...]
    shards: tuple[ShardEntry, ...] = ()
    finished: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of all shards."""
        return sum(shard.tokens for shard in self.shards)

    @property
    def documents(self) -> int:
        """Documents of all shards."""
        return sum(shard.documents for shard in self.shards)

    @property
    def rows(self) -> int:
        """Rows that have been read: where a build that was interrupted goes on."""
        return sum(shard.rows for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Bytes of text in all shards."""
        return sum(shard.size_bytes for shard in self.shards)

    @property
    def open_tokens(self) -> int:
        """Tokens at the end of the last shard, or of the last ones, of a document that is not at its end; 0: there is none."""
        return (self.shards[-1].open_tokens or 0) if self.shards else 0

    @property
    def last_file(self) -> FilePlace | None:
        """The file of the last row: a build that goes on need not open those before it. None: it is not known."""
        last = self.shards[-1] if self.shards else None
        if last is None or last.last_file is None or last.rows_before_last_file is None:
            return None
        return FilePlace(self.files[last.last_file].uri, last.rows_before_last_file)

    @property
    def content_state(self) -> bytes:
        """The hash over the contents of all shards, to go on from."""
        return bytes.fromhex(self.shards[-1].content_sha256 or self.content_sha256) if self.shards else b""

    @property
    def content_sha256(self) -> str:
        """One hash of the tokens, their weights and where documents end, wherever the text was read from and shards were cut."""
        last = self.shards[-1].content_sha256 if self.shards else None
        contents = [shard.sha256 for shard in self.shards] if last is None else last
        return hashlib.sha256(canonical_json([[self.token_type, self.weight_type], contents])).hexdigest()


def identity(source: DataSourceSpec, tokenizer_fingerprint: str, format_version: int) -> dict[str, Any]:
    """What decides the tokens of a source besides its text.

    Args:
        source: The source.
        tokenizer_fingerprint: Of the tokenizer.
        format_version: Version of the code that turns rows into tokens.
    """
    document = source.document()
    kept = {name: document[name] for name in (source.kind, "format", "rows")}
    return {"formatVersion": format_version, "tokenizer": tokenizer_fingerprint, **kept}


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Names of the parts of two identities that differ, as a user knows them."""
    return sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))


def changed_file(wanted: tuple[FileEntry, ...], found: tuple[FileEntry, ...]) -> str | None:
    """One sentence on the first file that is new, gone or changed since; None where all are the same."""
    before, now = ({entry.uri: entry for entry in entries} for entries in (found, wanted))
    for uri in sorted(before.keys() | now.keys()):
        if uri not in now:
            return f"{uri} is gone"
        if uri not in before:
            return f"{uri} is new"
        if not before[uri].same(now[uri]):
            sizes = f"{before[uri].size_bytes} bytes then, {now[uri].size_bytes} now"
            return f"{uri} has changed ({sizes})" if before[uri].size_bytes != now[uri].size_bytes else f"{uri} was written again"
    return None


def encode(ledger: Ledger) -> bytes:
    """The ledger as it is stored."""
    return json.dumps(ledger.document(), indent=1, sort_keys=True).encode()


def decode(data: bytes) -> Ledger:
    """Read a stored ledger.

    Raises:
        DamagedLedger: The bytes are not a ledger of this version.
    """
    try:
        return Ledger.model_validate_json(data)
    except ValidationError as error:
        raise DamagedLedger(f"{LEDGER_KEY} cannot be read: {error.errors()[0]['msg']}") from None
