"""The JSON documents of a checkpoint root.

``ROOT/HEAD`` is the only document that changes, by compare-and-swap only; its change is the commit. Everything below
``ROOT/steps/<step>.<attempt>.<nonce>/`` is written once, by one start of the run: first ``data/``, then
``MANIFEST.json`` with the hashes of the data, then ``COMMIT`` with the hash of the manifest. Checkpoints are ordered by
(step, start), never by a clock.

HEAD and COMMIT contain the manifest's hash; HEAD also contains the hash of its own content.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from halcyon_api.base import ApiModel, Timestamp, optional

HEAD_KEY = "HEAD"
MANIFEST_KEY = "MANIFEST.json"
COMMIT_KEY = "COMMIT"
STEPS_PREFIX = "steps/"
DATA_PREFIX = "data/"
TOKENIZERS_PREFIX = "tokenizers/"
"""Where a root keeps the tokenizer of its model."""
HUGGING_FACE_PREFIX = "huggingface/"
"""Where a root keeps the small files of the Hugging Face model that its weights came from."""
CHOICES_PREFIX = "choices/"
"""Where a root keeps the values that a run has chosen for its automatic fields."""
LINKS_PREFIX = "evidence/"
"""Where a root keeps the links of its chain of evidence, also those of deleted checkpoints."""
ORIGIN_KEY = "ORIGIN.json"
"""Where the root of a run that began from a checkpoint of another run says so."""
FORMAT_VERSION = 1
_LARGEST_FORMAT_VERSION = 1_000_000

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Document(ApiModel):
    """Base of all documents. Ignores unknown fields, which later minor versions may add."""

    model_config = ConfigDict(extra="ignore")


class DamagedDocument(ValueError):
    """A document was changed or damaged after it was written."""


class Epoch(Document):
    """The start of the run that a writer belongs to: the operator's attempt, then the JobSet's restart inside it.

    Compared lexicographically. People read ``start 2``, or ``start 2.1`` after a restart in a cluster.
    """

    attempt: int = Field(ge=0)
    restart: int = Field(ge=0)

    def __lt__(self, other: Epoch) -> bool:
        return (self.attempt, self.restart) < (other.attempt, other.restart)

    def __str__(self) -> str:
        return f"{self.attempt}.{self.restart}" if self.restart else str(self.attempt)


class Owner(Document):
    """The run that owns a root.

    Namespace and name identify the run; the uid differs if the run was deleted and created again.
    """

    namespace: str
    name: str
    uid: str = ""

    def same_run(self, other: Owner) -> bool:
        """Whether both have the same namespace and name."""
        return (self.namespace, self.name) == (other.namespace, other.name)


class EvaluationRecord(Document):
    """What a checkpoint knows of the evaluations before it, for the choice of the best checkpoint and for early
    stopping.
    """

    metric: str = Field(description="The number that is compared (`BestSpec.key`).")
    evaluated_step: int = Field(default=0, ge=0, description="Steps done at the last evaluation.")
    best_step: int | None = optional("Steps done at the best evaluation; None before a finite one.", ge=0)
    best_value: float | None = optional("Its value.")
    without_improvement: int = Field(default=0, ge=0, description="Evaluations since the best one.")


class CommittedStep(Document):
    """A committed checkpoint, as HEAD lists it."""

    step: int = Field(ge=0, description="Steps done.")
    epoch: Epoch
    path: str = Field(description="Prefix below the root, ending with a slash.")
    manifest_sha256: Sha256
    size_bytes: int = Field(ge=0)
    time: Timestamp
    verification: Literal["wanted", "passed"] | None = optional(
        "`wanted`: is to be read back in full after its commit. `passed`: was read back, every byte was right."
    )
    evaluation: EvaluationRecord | None = optional("The evaluations before it, if the run keeps its best checkpoint.")
    link: Sha256 | None = optional("SHA-256 of its link in the chain of evidence.")
    audited: int | None = optional("Step of the last audit before it that found all numbers right.", ge=0)


class BadStep(Document):
    """A checkpoint that did not verify. Its files are kept for inspection."""

    path: str
    step: int = Field(ge=0)
    reason: Annotated[str, StringConstraints(max_length=1024)]


class SkippedBatches(Document):
    """A return of the run to an earlier checkpoint of itself, and the batches that it leaves out from there on."""

    step: int = Field(ge=0, description="Step of the checkpoint.")
    batches: int = Field(ge=0, description="Number of batches left out, from the next one of that checkpoint on.")
    reason: Annotated[str, StringConstraints(max_length=512)] = Field(
        description="The numbers of the step that caused it."
    )
    epoch: Epoch = Field(description="The start of the run that went back.")


class RebuiltHead(Document):
    """Why HEAD was rebuilt from the checkpoints.

    What only HEAD knows, such as pins and damaged checkpoints, was lost.
    """

    reason: Annotated[str, StringConstraints(max_length=1024)] = Field(
        description="What was wrong with the former HEAD."
    )
    epoch: Epoch = Field(description="The start of the run that rebuilt it.")


class Head(Document):
    """The state of a root. The newest committed checkpoint is first in ``committed``."""

    format_version: Literal[1] = FORMAT_VERSION
    owner: Owner
    epoch: Epoch = Field(description="The only start of the run that may commit.")
    writer: str = Field(
        default="", description="Nonce of the process that took the root last, the only process that may commit."
    )
    committed: tuple[CommittedStep, ...] = Field(
        default=(), description="Committed checkpoints, newest first by (step, start)."
    )
    bad: tuple[BadStep, ...] = Field(default=(), description="Checkpoints that did not verify.")
    deleting: tuple[str, ...] = Field(default=(), description="Prefixes whose deletion has begun; never restored.")
    starts: int = Field(default=0, ge=0, description="How often the root was taken: once for every start of the run.")
    up_milliseconds: int = Field(
        default=0, ge=0, description="Total time from each start of the run to its last commit."
    )
    pinned: tuple[str, ...] = Field(
        default=(), description="Prefixes of committed checkpoints that retention never deletes."
    )
    skipped: tuple[SkippedBatches, ...] = Field(
        default=(), description="Returns of the run to earlier checkpoints, oldest first."
    )
    unread_saves: int = Field(
        default=0, ge=0, description="Commits since a checkpoint was last marked to be read back."
    )
    rebuilt: RebuiltHead | None = optional("The last time that HEAD was lost and rebuilt; None if it never was.")

    @property
    def newest(self) -> CommittedStep | None:
        """The newest committed checkpoint."""
        return self.committed[0] if self.committed else None


class OriginRecord(Document):
    """The checkpoint of another run that a run began from. Written before the run's first commit."""

    run: Annotated[str, StringConstraints(max_length=253)] = Field(description="Name of the other run.")
    root: Annotated[str, StringConstraints(max_length=2048)] = Field(description="Address of its root.")
    step: int = Field(ge=0, description="Step of its checkpoint.")
    weights_only: bool = Field(default=False, description="Whether only its weights were taken.")
    data_position: int | None = optional("`from.dataPosition` of the run.", ge=0)
    changes: tuple[str, ...] = Field(
        default=(), description="A clause for each field that decides numbers and differs, at most `MAX_CHANGES`."
    )

    @property
    def sentence(self) -> str:
        """The record as a sentence. Signs that would change a terminal are question marks."""
        taken = "with the weights of" if self.weights_only else "as a branch of"
        changed = "; ".join(self.changes) or "no field that decides numbers"
        text = f"began {taken} run {self.run} at step {self.step}, in {self.root}; changed: {changed}"
        return "".join(sign if sign.isprintable() else "?" for sign in text)


MAX_CHANGES = 100
"""Most clauses of `OriginRecord.changes`."""


def decode_origin(data: bytes) -> OriginRecord:
    """Read a stored record.

    Raises:
        DamagedDocument: The bytes are not such a record.
    """
    try:
        return OriginRecord.model_validate_json(data)
    except ValueError:
        raise DamagedDocument(f"{ORIGIN_KEY} cannot be read") from None


class ManifestFile(Document):
    """One file of a checkpoint, relative to its ``data/``."""

    path: str
    size_bytes: int = Field(ge=0)
    sha256: Sha256


class ManifestLeaf(Document):
    """One array of the state by its path in the tree, independent of its sharding."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    chunk_shape: tuple[int, ...] = Field(description="Shape of its regular chunks, one file each.")
    axes: tuple[str, ...] | None = optional("Logical axis names, if the array has them.")


class Fingerprints(Document):
    """The sections that must not change when a run resumes: SHA-256 of the canonical JSON by section name, and the
    sections themselves.
    """

    sections: dict[str, Sha256]
    documents: dict[str, Any] = Field(description="The sections at the time of the save, to report what differs.")


class DataPosition(Document):
    """Position of the run in its data: a pure function of the step, recorded for readers and checks."""

    step: int = Field(ge=0)
    sequences: int = Field(ge=0)
    tokens: int = Field(ge=0)
    skipped: tuple[SkippedBatches, ...] = Field(
        default=(), description="The returns of the run that decide this position."
    )


class Evidence(Document):
    """What a checkpoint adds to the chain of evidence of its root."""

    previous: Sha256 | None = optional("SHA-256 of the link that this one follows; absent: the first one.")
    steps: int = Field(ge=0, description="Steps since that link.")
    numbers: Sha256 = Field(description="SHA-256 of the steps' numbers, losses and gradient norms, in float32.")
    hardware: Annotated[str, StringConstraints(max_length=256)] = Field(description="Devices that computed them.")
    audited: int | None = optional("Step of the last audit that found all numbers right.", ge=0)


class Link(Document):
    """A link of the chain of evidence: what was computed up to a checkpoint, by what, and the link that it follows."""

    path: str = Field(description="Prefix of the checkpoint below the root. It may have been deleted since.")
    step: int = Field(ge=0)
    epoch: Epoch
    previous: Sha256 | None = optional("SHA-256 of the link that this one follows; absent: the first one.")
    state: Sha256 = Field(description="SHA-256 of the list of the checkpoint's files, with their hashes.")
    sections: dict[str, Sha256] = Field(description="SHA-256 of the sections that decide the numbers of the run.")
    data_position: DataPosition
    steps: int = Field(ge=0, description="Steps since the link before.")
    numbers: Sha256 = Field(description="SHA-256 of the steps' numbers, losses and gradient norms, in float32.")
    hardware: str = Field(description="Devices that computed them.")
    audited: int | None = optional("Step of the last audit that found all numbers right.", ge=0)
    mesh: dict[str, int]
    versions: dict[str, str]


class Manifest(Document):
    """The metadata of one checkpoint."""

    format_version: Literal[1] = FORMAT_VERSION
    step: int = Field(ge=0)
    epoch: Epoch
    owner: Owner
    process_count: int = Field(
        ge=1, description="Number of processes that wrote it. Any number of processes can read it."
    )
    leaves: tuple[ManifestLeaf, ...]
    files: tuple[ManifestFile, ...]
    fingerprints: Fingerprints
    data_position: DataPosition
    seed: int = Field(ge=0)
    versions: dict[str, str] = Field(description="Versions of the software that wrote it.")
    mesh: dict[str, int] = Field(description="The mesh that wrote it, for information; reading does not need it.")
    time: Timestamp
    vocabulary: int | None = optional("Tokens of the model, without the padding of its vocabulary.", ge=1)
    positions: int | None = optional("Longest sequence of the model, in tokens.", ge=1)
    evaluation: EvaluationRecord | None = optional("The evaluations before it, if the run keeps its best checkpoint.")
    evidence: Evidence | None = optional("What it adds to the chain of evidence, if a training made it.")


class Commit(Document):
    """The mark that a checkpoint's manifest is complete."""

    manifest_sha256: Sha256
    epoch: Epoch


def canonical_json(document: Any) -> bytes:
    """The encoding of a JSON document for hashes: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def encode_head(head: Head) -> bytes:
    """The stored form of HEAD: its document, with the SHA-256 of that document's canonical JSON as the member
    ``sha256``.
    """
    document = head.document()
    return canonical_json(document | {"sha256": hashlib.sha256(canonical_json(document)).hexdigest()})


def decode_head(data: bytes) -> Head:
    """Read a stored HEAD.

    Raises:
        DamagedDocument: The bytes are not a HEAD that this version can read. The message is a clause without text from
            the store.
    """
    if not data:
        raise DamagedDocument("HEAD is empty")
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError):
        raise DamagedDocument("HEAD is not a JSON document") from None
    if not isinstance(document, dict) or "sha256" not in document:
        raise DamagedDocument("HEAD does not carry the hash of its content")
    content: dict[str, Any] = {**document}
    recorded = content.pop("sha256")
    try:
        encoded = canonical_json(content)
    except (ValueError, RecursionError):
        raise DamagedDocument("HEAD is not a JSON document") from None
    if recorded != hashlib.sha256(encoded).hexdigest():
        raise DamagedDocument("HEAD does not have the hash that it carries")
    version = content.get("formatVersion")
    if isinstance(version, int) and FORMAT_VERSION < version <= _LARGEST_FORMAT_VERSION:
        raise DamagedDocument(
            f"HEAD has the format version {version} of a newer Halcyon; this one reads version {FORMAT_VERSION}"
        )
    try:
        return Head.model_validate_json(encoded)
    except ValueError:
        raise DamagedDocument("HEAD does not have the fields of a HEAD") from None


def step_prefix(step: int, attempt: int, nonce: str) -> str:
    """Prefix of one checkpoint below the root; lexical order is step order."""
    return f"{STEPS_PREFIX}{step:012d}.{attempt:06d}.{nonce}/"
