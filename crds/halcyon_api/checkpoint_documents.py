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
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, NonNegativeInt, StringConstraints

from halcyon_api.base import ApiModel, AtLeastOne, Timestamp
from halcyon_api.printable import one_line

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
COPIES_PREFIX = "heads/"
"""Where each writer of a root keeps a copy of the HEAD that it wrote last, or was about to write."""
LINKS_PREFIX = "evidence/"
"""Where a root keeps the links of its chain of evidence, also those of deleted checkpoints."""
ROLLOUTS_PREFIX = "rollouts/"
SAMPLING_PREFIX = "sampling/"
"""Where a root keeps answers that later steps train on."""
SEGMENTS_KEY = "SEGMENTS.json"
"""Where a process that has ended, or a copy, names the files of the history (`Segments`)."""
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

    attempt: NonNegativeInt
    restart: NonNegativeInt

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

    metric: str
    """The number that is compared (`BestSpec.key`)."""
    evaluated_step: NonNegativeInt = 0
    """Steps done at the last evaluation."""
    best_step: NonNegativeInt | None = None
    """Steps done at the best evaluation; None before a finite one."""
    best_value: float | None = None
    """Its value."""
    without_improvement: NonNegativeInt = 0
    """Evaluations since the best one."""


class CommittedStep(Document):
    """A committed checkpoint, as HEAD lists it."""

    step: NonNegativeInt
    """Steps done."""
    epoch: Epoch
    path: str
    """Prefix below the root, ending with a slash."""
    manifest_sha256: Sha256
    size_bytes: NonNegativeInt
    time: Timestamp
    verification: Literal["wanted", "passed"] | None = None
    """`wanted`: is to be read back in full after its commit. `passed`: was read back, every byte was right."""
    evaluation: EvaluationRecord | None = None
    """The evaluations before it, if the run keeps its best checkpoint."""
    link: Sha256 | None = None
    """SHA-256 of its link in the chain of evidence."""
    audited: NonNegativeInt | None = None
    """Step of the last audit before it that found all numbers right."""


class BadStep(Document):
    """A checkpoint that left HEAD and keeps its files: it did not verify, or the run went back and it was pinned.

    Its COMMIT then holds this document, so that a rebuilt HEAD does not list it as committed.
    """

    path: str
    step: NonNegativeInt
    reason: Annotated[str, StringConstraints(max_length=1024)]


class SkippedBatches(Document):
    """A return of the run to an earlier checkpoint of itself, and the batches that it leaves out from there on."""

    step: NonNegativeInt
    """Step of the checkpoint."""
    batches: NonNegativeInt
    """Number of batches left out, from the next one of that checkpoint on."""
    reason: Annotated[str, StringConstraints(max_length=512)]
    """The numbers of the step that caused it."""
    epoch: Epoch
    """The start of the run that went back."""


class RebuiltHead(Document):
    """Why HEAD was rebuilt from its last copy and the checkpoints."""

    reason: Annotated[str, StringConstraints(max_length=1024)]
    """What was wrong with the former HEAD."""
    epoch: Epoch
    """The start of the run that rebuilt it."""


class Head(Document):
    """The state of a root. The newest committed checkpoint is first in ``committed``."""

    format_version: Literal[1] = FORMAT_VERSION
    owner: Owner
    epoch: Epoch
    """The only start of the run that may commit."""
    writer: str = ""
    """Nonce of the process that took the root last, the only process that may commit."""
    committed: tuple[CommittedStep, ...] = ()
    """Committed checkpoints, newest first by (step, start)."""
    bad: tuple[BadStep, ...] = ()
    """Checkpoints that did not verify."""
    deleting: tuple[str, ...] = ()
    """Prefixes whose deletion has begun; never restored."""
    starts: NonNegativeInt = 0
    """How often the root was taken: once for every start of the run."""
    up_milliseconds: NonNegativeInt = 0
    """Total time from each start of the run to its last commit."""
    pinned: tuple[str, ...] = ()
    """Prefixes of committed checkpoints that retention never deletes."""
    skipped: tuple[SkippedBatches, ...] = ()
    """Returns of the run to earlier checkpoints, oldest first."""
    unread_saves: NonNegativeInt = 0
    """Commits since a checkpoint was last marked to be read back."""
    rebuilt: RebuiltHead | None = None
    """The last time that HEAD was lost and rebuilt; None if it never was."""

    @property
    def newest(self) -> CommittedStep | None:
        """The newest committed checkpoint."""
        return self.committed[0] if self.committed else None

    @property
    def named(self) -> frozenset[str]:
        """The prefixes that it names: all others below ``steps/`` are no checkpoints of the run."""
        return frozenset({entry.path for entry in (*self.committed, *self.bad)} | set(self.deleting))


class OriginRecord(Document):
    """The checkpoint of another run that a run began from. Written before the run's first commit."""

    run: Annotated[str, StringConstraints(max_length=253)]
    """Name of the other run."""
    root: Annotated[str, StringConstraints(max_length=2048)]
    """Address of its root."""
    step: NonNegativeInt
    """Step of its checkpoint."""
    weights_only: bool = False
    """Whether only its weights were taken."""
    data_position: NonNegativeInt | None = None
    """`from.dataPosition` of the run."""
    changes: tuple[str, ...] = ()
    """A clause for each field that decides numbers and differs, at most `MAX_CHANGES`."""

    @property
    def message(self) -> str:
        """The record as a sentence. Signs that would change a terminal are question marks."""
        taken = "with the weights of" if self.weights_only else "as a branch of"
        changed = "; ".join(self.changes) or "no field that decides numbers"
        return one_line(f"began {taken} run {self.run} at step {self.step}, in {self.root}; changed: {changed}")


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
    size_bytes: NonNegativeInt
    sha256: Sha256


class ManifestLeaf(Document):
    """One array of the state by its path in the tree, independent of its sharding."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    chunk_shape: tuple[int, ...]
    """Shape of its regular chunks, one file each."""
    axes: tuple[str, ...] | None = None
    """Logical axis names, if the array has them."""


class Fingerprints(Document):
    """The sections that must not change when a run resumes: SHA-256 of the canonical JSON by section name, and the
    sections themselves.
    """

    sections: dict[str, Sha256]
    documents: dict[str, Any]
    """The sections at the time of the save, to report what differs."""


class DataPosition(Document):
    """Position of the run in its data: a pure function of the step, recorded for readers and checks."""

    step: NonNegativeInt
    sequences: NonNegativeInt
    tokens: NonNegativeInt
    skipped: tuple[SkippedBatches, ...] = ()
    """The returns of the run that decide this position."""


class Evidence(Document):
    """What a checkpoint adds to the chain of evidence of its root."""

    previous: Sha256 | None = None
    """SHA-256 of the link that this one follows; absent: the first one."""
    steps: NonNegativeInt
    """Steps since that link."""
    numbers: Sha256
    """SHA-256 of the steps' numbers, losses and gradient norms, in float32."""
    segments: dict[str, Sha256] | None = None
    """The files of the history, and the SHA-256 of each; absent: the store did not take the history in time."""
    hardware: Annotated[str, StringConstraints(max_length=256)]
    """Devices that computed them."""
    audited: NonNegativeInt | None = None
    """Step of the last audit that found all numbers right."""


class Link(Document):
    """A link of the chain of evidence: what was computed up to a checkpoint, by what, and the link that it follows."""

    path: str
    """Prefix of the checkpoint below the root. It may have been deleted since."""
    step: NonNegativeInt
    epoch: Epoch
    previous: Sha256 | None = None
    """SHA-256 of the link that this one follows; absent: the first one."""
    state: Sha256
    """SHA-256 of the list of the checkpoint's files, with their hashes."""
    sections: dict[str, Sha256]
    """SHA-256 of the sections that decide the numbers of the run."""
    data_position: DataPosition
    steps: NonNegativeInt
    """Steps since the link before."""
    numbers: Sha256
    """SHA-256 of the steps' numbers, losses and gradient norms, in float32."""
    segments: dict[str, Sha256] | None = None
    """The files of the history when it was made, and the SHA-256 of each. They hold the rows of all steps before."""
    hardware: str
    """Devices that computed them."""
    audited: NonNegativeInt | None = None
    """Step of the last audit that found all numbers right."""
    mesh: dict[str, int]
    versions: dict[str, str]


class Segments(Document):
    """The files of the history at the end of a process or of a copy, after which no link was made."""

    writer: str
    """Nonce of the process that has ended; empty: a copy, whose files no link names."""
    segments: dict[str, Sha256]
    """SHA-256 of each file."""


class Manifest(Document):
    """The metadata of one checkpoint."""

    format_version: Literal[1] = FORMAT_VERSION
    step: NonNegativeInt
    epoch: Epoch
    owner: Owner
    process_count: AtLeastOne
    """Number of processes that wrote it. Any number of processes can read it."""
    leaves: tuple[ManifestLeaf, ...]
    files: tuple[ManifestFile, ...]
    fingerprints: Fingerprints
    data_position: DataPosition
    seed: NonNegativeInt
    versions: dict[str, str]
    """Versions of the software that wrote it."""
    mesh: dict[str, int]
    """The mesh that wrote it, for information; reading does not need it."""
    time: Timestamp
    vocabulary: AtLeastOne | None = None
    """Tokens of the model, without the padding of its vocabulary."""
    positions: AtLeastOne | None = None
    """Longest sequence of the model, in tokens."""
    evaluation: EvaluationRecord | None = None
    """The evaluations before it, if the run keeps its best checkpoint."""
    evidence: Evidence | None = None
    """What it adds to the chain of evidence, if a training made it."""


class Commit(Document):
    """The mark that a checkpoint's manifest is complete."""

    manifest_sha256: Sha256
    epoch: Epoch


def canonical_json(document: Any) -> bytes:
    """The encoding of a JSON document for hashes: sorted keys, no spaces, UTF-8."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def with_hash(document: Mapping[str, Any]) -> bytes:
    """The stored form of a document that changes in place: its canonical JSON, with the SHA-256 of that as the member
    ``sha256``.
    """
    return canonical_json({**document, "sha256": hashlib.sha256(canonical_json(document)).hexdigest()})


def without_hash(data: bytes, name: str) -> dict[str, Any]:
    """Read what `with_hash` stored.

    Args:
        data: The stored bytes.
        name: Name of the document, for the message.

    Raises:
        DamagedDocument: The bytes are not what was stored. The message is a clause without text from the store.
    """
    if not data:
        raise DamagedDocument(f"{name} is empty")
    try:
        document: object = json.loads(data)
    except (ValueError, RecursionError):
        raise DamagedDocument(f"{name} is not a JSON document") from None
    if not isinstance(document, dict) or "sha256" not in document:
        raise DamagedDocument(f"{name} does not carry the hash of its content")
    content: dict[str, Any] = {**document}
    recorded = content.pop("sha256")
    try:
        encoded = canonical_json(content)
    except (ValueError, RecursionError):
        raise DamagedDocument(f"{name} is not a JSON document") from None
    if recorded != hashlib.sha256(encoded).hexdigest():
        raise DamagedDocument(f"{name} does not have the hash that it carries")
    return content


def encode_head(head: Head) -> bytes:
    """The stored form of HEAD."""
    return with_hash(head.document())


def decode_head(data: bytes) -> Head:
    """Read a stored HEAD.

    Raises:
        DamagedDocument: The bytes are not a HEAD that this version can read. The message is a clause without text from
            the store.
    """
    content = without_hash(data, HEAD_KEY)
    version = content.get("formatVersion")
    if isinstance(version, int) and FORMAT_VERSION < version <= _LARGEST_FORMAT_VERSION:
        raise DamagedDocument(
            f"HEAD has the format version {version} of a newer Halcyon; this one reads version {FORMAT_VERSION}"
        )
    try:
        return Head.model_validate_json(canonical_json(content))
    except ValueError:
        raise DamagedDocument("HEAD does not have the fields of a HEAD") from None


def step_prefix(step: int, attempt: int, nonce: str) -> str:
    """Prefix of one checkpoint below the root; lexical order is step order."""
    return f"{STEPS_PREFIX}{step:012d}.{attempt:06d}.{nonce}/"
