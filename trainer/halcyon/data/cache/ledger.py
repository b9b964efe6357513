"""The ledger of a token cache: its inputs and its shards. It is the only document of a cache that changes, and only by
compare-and-swap.

A cache is stored under the name of its source. Its ``identity`` is everything that decides the tokens besides the text:
tokenizer, format, the kind of the source, the selected rows, and whether bad ones are skipped. The text is identified
by its files. A run with another identity or other files is rejected with the difference, if it has already trained.

A shard exists only if it is in the ledger. Its name contains the hash of its contents. So two builders at the same time
write the same bytes under the same name, and files that a killed builder left behind are never used as anything else.
"""

from __future__ import annotations

import hashlib
from functools import reduce
from typing import Any, Literal

from pydantic import NonNegativeInt, ValidationError

from halcyon.data.cache.shards import NO_COUNTS, Counts
from halcyon.data.cache.skipped import NOTHING, Skipped
from halcyon.data.forms.form import Form
from halcyon.data.sources.piece import FilePlace
from halcyon_api.checkpoint_documents import DamagedDocument, Document, canonical_json, with_hash, without_hash
from halcyon_api.spec.model_shape import ImageShape
from halcyon_api.spec.sources import DataSourceSpec

LEDGER_KEY = "LEDGER.json"
TOKENS_VERSION = 4
"""Increased when the same rows would give other tokens than before."""


class DamagedLedger(ValueError):
    """The bytes are not a ledger."""


class FileEntry(Document):
    """A file that the cache was built from."""

    uri: str
    size_bytes: NonNegativeInt
    version: str
    """ETag of an object, or modification time of a local file."""
    sha256: str | None = None
    """Hash of the content of a local file."""

    def same(self, other: FileEntry) -> bool:
        """Whether both have the same content, as far as size, version and hash show."""
        if self.size_bytes != other.size_bytes:
            return False
        return self.version == other.version or (self.sha256 is not None and self.sha256 == other.sha256)


class ShardEntry(Document):
    """A shard: neighbouring documents."""

    path: str
    """Prefix below the cache, ending with a slash."""
    tokens: NonNegativeInt
    documents: NonNegativeInt
    rows: NonNegativeInt
    """Rows that end in the shard, rows without text included."""
    empty_rows: NonNegativeInt
    """Rows without text, which made no document."""
    rejected_rows: NonNegativeInt = 0
    """Rows whose label says that the answer is a bad one, which made no document."""
    skipped: Skipped | None = None
    """What is left out. None: nothing."""
    size_bytes: NonNegativeInt
    """Bytes of text."""
    last_file: NonNegativeInt | None = None
    """Number of the file of its last row, if rows are found only by reading their file."""
    rows_before_last_file: NonNegativeInt | None = None
    """Rows of the files before that file."""
    sha256: str
    """Hash of its contents."""
    content_sha256: str
    """Hash of the contents of all shards up to its end, independent of their bounds."""

    @property
    def counts(self) -> Counts:
        """Its numbers."""
        left_out = self.skipped or NOTHING
        return Counts(
            self.rows, self.empty_rows, self.rejected_rows, self.documents, self.tokens, self.size_bytes, left_out
        )


class Ledger(Document):
    """The state of a cache."""

    format_version: Literal[1] = 1
    identity: dict[str, Any]
    token_type: Literal["uint8", "uint16", "uint32"]
    weight_type: Literal["uint8", "float32"] | None = None
    """None: every token counts."""
    files: tuple[FileEntry, ...]
    form: Form | None = None
    """Form of rows with conversations. It follows from the first row and the format."""
    hidden: NonNegativeInt = 0
    """Hidden files and folders in the listed folders: left out."""
    excluded: NonNegativeInt = 0
    """Files and folders that `exclude` leaves out."""
    others: NonNegativeInt = 0
    """Files with other endings in the listed folders: left out."""
    shards: tuple[ShardEntry, ...] = ()
    finished: bool = False

    @property
    def counts(self) -> Counts:
        """The sums of all shards. An interrupted build continues after their rows."""
        return reduce(Counts.plus, (shard.counts for shard in self.shards), NO_COUNTS)

    @property
    def last_file(self) -> FilePlace | None:
        """The file of the last row; a resumed build does not open earlier files. None: not known."""
        last = self.shards[-1] if self.shards else None
        if last is None or last.last_file is None or last.rows_before_last_file is None:
            return None
        return FilePlace(self.files[last.last_file].uri, last.rows_before_last_file)

    @property
    def content_state(self) -> bytes:
        """The state of the hash over the contents of all shards, to continue from."""
        return bytes.fromhex(self.shards[-1].content_sha256) if self.shards else b""

    @property
    def content_sha256(self) -> str:
        """Hash of the tokens, their weights, the ends and origins (numbers of file and row) of documents, and of the
        numbers of all rows and of those that are left out.

        It depends on neither the files' addresses nor the bounds of shards.
        """
        contents = self.shards[-1].content_sha256 if self.shards else []
        counts, skipped = self.counts, self.counts.skipped
        rows = [*counts[:3], skipped.binary_files, skipped.bad_files, skipped.bad_rows]
        decided = [[self.token_type, self.weight_type], contents, rows]
        return hashlib.sha256(canonical_json(decided)).hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """Identifies the contents of a finished cache."""
        counts = self.counts
        return {
            "contentSha256": self.content_sha256,
            "tokens": counts.tokens,
            "documents": counts.documents,
            "sizeBytes": counts.size_bytes,
        }

    @property
    def files_sha256(self) -> str:
        """Hash of the sizes and contents, or versions, of the files, in their order."""
        files = [[entry.size_bytes, entry.sha256 or entry.version] for entry in self.files]
        return hashlib.sha256(canonical_json(files)).hexdigest()


def identity(source: DataSourceSpec, tokenizer_fingerprint: str, sight: ImageShape | None) -> dict[str, Any]:
    """Everything that decides the tokens of a source besides its text.

    Args:
        source: The source.
        tokenizer_fingerprint: Fingerprint of the tokenizer.

        sight: The images that the model sees. None: none.
    """
    document = source.document()
    kept = {name: document[name] for name in (source.kind, "format", "rows", "onBadFile", "onBadRow")}
    if sight is not None and source.format.chat is not None:
        kept["images"] = [sight.image_size, sight.tokens, sight.images, *([sight.token] if sight.cubic else ())]
    return {"formatVersion": TOKENS_VERSION, "tokenizer": tokenizer_fingerprint, **kept}


def changed_file(wanted: tuple[FileEntry, ...], recorded: tuple[FileEntry, ...]) -> str | None:
    """A message about the first file that was added, deleted or changed; None: all files are the same."""
    before, now = ({entry.uri: entry for entry in entries} for entries in (recorded, wanted))
    for uri in sorted(before.keys() | now.keys()):
        if uri not in now:
            return f"{uri} was deleted"
        if uri not in before:
            return f"{uri} was added"
        if not before[uri].same(now[uri]):
            sizes = f"{before[uri].size_bytes} bytes then, {now[uri].size_bytes} now"
            return (
                f"{uri} has changed ({sizes})"
                if before[uri].size_bytes != now[uri].size_bytes
                else f"{uri} was written again"
            )
    return None


def encode(ledger: Ledger) -> bytes:
    """The ledger as it is stored."""
    return with_hash(ledger.document())


def decode(data: bytes) -> Ledger:
    """Read a stored ledger.

    Raises:
        DamagedLedger: The bytes are not a ledger of this version.
    """
    try:
        return Ledger.model_validate_json(canonical_json(without_hash(data, LEDGER_KEY)))
    except DamagedDocument as damage:
        raise DamagedLedger(str(damage)) from None
    except ValidationError as error:
        raise DamagedLedger(f"{LEDGER_KEY} cannot be read: {error.errors()[0]['msg']}") from None
