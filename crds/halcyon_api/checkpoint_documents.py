"""The JSON documents of a checkpoint root.

``ROOT/HEAD`` is the only document that ever changes, by compare-and-swap alone; its change is the moment of commit. Everything below
``ROOT/steps/<step>.<attempt>.<nonce>/`` is written once by one epoch and never again: ``data/``, then ``MANIFEST.json`` over it, then
``COMMIT`` over the manifest. Order is by (step, epoch), never by a clock.

A manifest's hash stands in HEAD and in COMMIT; HEAD itself, which nothing points to, carries the hash of its own content.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import ApiModel, Timestamp

HEAD_KEY = "HEAD"
MANIFEST_KEY = "MANIFEST.json"
COMMIT_KEY = "COMMIT"
STEPS_PREFIX = "steps/"
DATA_PREFIX = "data/"
FORMAT_VERSION = 1

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Document(ApiModel):
    """Base of all documents: a reader of this version passes over fields of later minor versions."""

    model_config = ConfigDict(extra="ignore")


class DamagedDocument(ValueError):
    """A document is not what was written."""


class Epoch(Document):
    """Who may write: the operator's attempt, then the JobSet's restart inside it, compared lexicographically."""

    attempt: int = Field(ge=0)
    restart: int = Field(ge=0)

    def __lt__(self, other: Epoch) -> bool:
        return (self.attempt, self.restart) < (other.attempt, other.restart)

    def __str__(self) -> str:
        return f"{self.attempt}.{self.restart}"


class Owner(Document):
    """The run a root belongs to. Namespace and name decide; the uid tells one life of that name from another."""

    namespace: str
    name: str
    uid: str = ""

    def same_run(self, other: Owner) -> bool:
        """Whether both are the same run by name."""
        return (self.namespace, self.name) == (other.namespace, other.name)


class CommittedStep(Document):
    """A committed checkpoint, as HEAD lists it."""

    step: int = Field(ge=0, description="Steps done.")
    epoch: Epoch
    path: str = Field(description="Prefix below the root, ending with a slash.")
    manifest_sha256: Sha256
    size_bytes: int = Field(ge=0)
    time: Timestamp
    verification: Literal["wanted", "passed"] | None = Field(
        default=None, description="Whether it is to be read back whole after its commit, and whether it was and every byte was right."
    )


class BadStep(Document):
    """A checkpoint that did not verify. Its files are kept for whoever looks into it."""

    path: str
    step: int = Field(ge=0)
    reason: Annotated[str, StringConstraints(max_length=1024)]


class Head(Document):
    """The state of a root. The newest committed checkpoint is first in ``committed``."""

    format_version: Literal[1] = FORMAT_VERSION
    owner: Owner
    epoch: Epoch = Field(description="The only epoch that may commit.")
    writer: str = Field(default="", description="Nonce of the process that took the root last: the only one of its epoch that may commit.")
    committed: tuple[CommittedStep, ...] = Field(default=(), description="Committed checkpoints, newest first by (step, epoch).")
    bad: tuple[BadStep, ...] = Field(default=(), description="Checkpoints that did not verify.")
    deleting: tuple[str, ...] = Field(default=(), description="Prefixes whose deletion has begun; never candidates for a restore.")
    starts: int = Field(default=0, ge=0, description="How often the root was taken: every start of the run.")
    up_milliseconds: int = Field(default=0, ge=0, description="How long the run has been up, from each start to its last commit.")
    pinned: tuple[str, ...] = Field(default=(), description="Prefixes of committed checkpoints that are kept whatever comes after them.")
    unread_saves: int = Field(default=0, ge=0, description="How many checkpoints were committed since one was last wanted to be read back.")

    @property
    def newest(self) -> CommittedStep | None:
        """The newest committed checkpoint."""
        return self.committed[0] if self.committed else None


class ManifestFile(Document):
    """One file of a checkpoint, relative to its ``data/``."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class ManifestLeaf(Document):
    """One array of the state by its path in the tree, independent of how devices hold it."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    chunk_shape: tuple[int, ...] = Field(description="Shape of its regular chunks, one file each.")
    axes: tuple[str, ...] | None = Field(default=None, description="Logical axis names, where the array has them.")


class Fingerprints(Document):
    """What must be the same for a run to go on: section name to SHA-256 of its canonical JSON, and the sections themselves."""

    sections: dict[str, Sha256]
    documents: dict[str, Any] = Field(description="The sections as they were, to name what differs.")


class DataPosition(Document):
    """Where in the data the run is: a pure function of the step, written down for people and for checks."""

    step: int = Field(ge=0)
    sequences: int = Field(ge=0)
    tokens: int = Field(ge=0)


class Manifest(Document):
    """Everything about one checkpoint that is not its numbers."""

    format_version: Literal[1] = FORMAT_VERSION
    step: int = Field(ge=0)
    epoch: Epoch
    owner: Owner
    process_count: int = Field(ge=1, description="How many processes wrote it; a reader may be any number.")
    leaves: tuple[ManifestLeaf, ...]
    files: tuple[ManifestFile, ...]
    fingerprints: Fingerprints
    data_position: DataPosition
    seed: int = Field(ge=0)
    versions: dict[str, str] = Field(description="Versions of the software that wrote it.")
    mesh: dict[str, int] = Field(description="The mesh that wrote it, for people; never needed to read.")
    time: Timestamp


class Commit(Document):
    """The mark that a checkpoint's manifest is complete."""

    manifest_sha256: Sha256
    epoch: Epoch


def canonical_json(document: Any) -> bytes:
    """The one encoding of a JSON document that is hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def encode_head(head: Head) -> bytes:
    """HEAD as it is stored: its document, with the SHA-256 of that document's canonical JSON as the member ``sha256``."""
    document = head.document()
    return canonical_json(document | {"sha256": hashlib.sha256(canonical_json(document)).hexdigest()})


def decode_head(data: bytes) -> Head:
    """Read a stored HEAD.

    Raises:
        DamagedDocument: The bytes are not a HEAD, or not the one that was written.
    """
    try:
        document = json.loads(data)
        recorded = document.pop("sha256")
        if recorded != hashlib.sha256(canonical_json(document)).hexdigest():
            raise DamagedDocument("HEAD does not have the hash that it carries")
        return Head.model_validate_json(canonical_json(document))
    except DamagedDocument:
        raise
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise DamagedDocument(f"HEAD cannot be read: {type(error).__name__}") from None


def step_prefix(step: int, attempt: int, nonce: str) -> str:
    """Prefix of one checkpoint below the root; lexical order is step order."""
    return f"{STEPS_PREFIX}{step:012d}.{attempt:06d}.{nonce}/"
