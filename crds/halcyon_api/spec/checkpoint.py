"""``spec.checkpoint``: where checkpoints are kept and when they are made.

A root belongs to one run. Its address is checked here for every reader of the document: an allowed scheme, no
credentials, no query, and no ``..`` that would lead out of the root.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from halcyon_api.base import (
    MAX_FILE_NAME_BYTES,
    ApiModel,
    ObjectName,
    Rule,
    RuledModel,
    Seconds,
    StepCount,
    StepNumber,
    optional,
)

ROOT_PATTERN = (
    r"^(file://(/[^/:\x00-\x1f\x7f]+)+|(s3|gs|az)://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)+)/?$"
)
ADDRESS_SCHEMA: dict[str, Any] = {"pattern": ROOT_PATTERN}
"""What the schema says of the address of a folder of a store, beside its length."""
Address = Annotated[str, StringConstraints(max_length=1024)]
_ROOT_MESSAGE = (
    "root must be file:///PATH, s3://BUCKET/PATH, gs://BUCKET/PATH or az://ACCOUNT/CONTAINER/PATH, with a PATH of "
    "letters, digits, `.`, `_`, `=` and `-`, without `..`"
)
_LABEL = "[a-z0-9]([a-z0-9_-]*[a-z0-9])?"
_BUCKET = re.compile(
    rf"(?=.{{3,63}}$)(?!([0-9]+\.){{3}}[0-9]+$|xn--|sthree-){_LABEL}(\.{_LABEL})*(?<!-s3alias)(?<!--ol-s3)"
)
"""Names that both stores allow: no IP address, and no beginning or end that S3 reserves."""
_ACCOUNT, _CONTAINER = re.compile("[a-z0-9]{3,24}"), re.compile("(?=.{3,63}$)[a-z0-9]+(-[a-z0-9]+)*")
"""Names of Azure's storage accounts and of their containers."""


@dataclass(frozen=True)
class CheckpointRoot:
    """A parsed root: scheme, bucket (empty for files; ``ACCOUNT/CONTAINER`` of Azure) and path without leading and
    final slash (for files: absolute).
    """

    scheme: Literal["file", "s3", "gs", "az"]
    bucket: str
    path: str


class SecretName(ApiModel):
    """A Secret in the run's namespace. The operator never reads it; the kubelet gives it to the pods."""

    name: ObjectName
    """Name of the Secret."""


class SaveSpec(ApiModel):
    """When a checkpoint is made. The end of the run always makes one; a preemption makes one if there is time."""

    every_steps: StepNumber = 100
    """Save every N steps, or once a late save has ended; 0: not by steps."""
    every_seconds: Seconds = 0
    """Save when the newest checkpoint is older than this; 0: not by time."""
    auto: bool = False
    """Save at the interval that loses the least time (Young, Daly), by the cost of a save and the rate of stops,
    instead of everySteps and everySeconds."""
    before_evaluation: bool = False
    """Save before each evaluation, so that a failed evaluation loses no step."""


class PermanentSpec(ApiModel):
    """Steps whose checkpoints are always made and kept forever."""

    every_steps: StepCount
    """Every N steps."""
    until_step: StepCount | None = None
    """Last step of this entry; the next entry counts from there. Default: the end of the run."""


class VerifySpec(ApiModel):
    """How often a checkpoint is read back after its commit."""

    every_saves: Annotated[int, Field(ge=0, le=1_000_000)] = 10
    """Read every Nth checkpoint back in full, in the background, and mark it bad if a byte is wrong; 0: never. The
    newest that passed is kept until a newer one passes."""


class MemorySpec(ApiModel):
    """Snapshots in the memory of the pods, for starts in place."""

    every_steps: StepCount | None = None
    """Every N steps. Default: the best interval, at most 1 % of the time."""
    copies: Annotated[int, Field(ge=0, le=4)] = 1
    """Pods that keep a copy of each part."""


class CheckpointSpec(RuledModel):
    """Where the run's checkpoints are kept and when they are made."""

    root: Address = Field(json_schema_extra=ADDRESS_SCHEMA)
    """Address of the run's checkpoints, used by no other run: file:///PATH, s3://BUCKET/PATH, gs://BUCKET/PATH or
    az://ACCOUNT/CONTAINER/PATH. Default: `checkpoint.rootPrefix` of the TrainingRunDefaults, with /NAMESPACE/NAME."""
    endpoint: str | None = optional(max_length=512, pattern=r"^https?://[A-Za-z0-9.:\[\]-]+$")
    """Address of an S3-compatible store other than AWS, or of another server for Azure's blobs, such as
    `http://store.storage.svc:7070`."""
    region: str | None = optional(max_length=64, pattern=r"^[a-z0-9-]+$")
    """Region of an S3 bucket. Default: `us-east-1` if an endpoint is set, else found by the client."""
    credentials_secret: SecretName | None = None
    """Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for an S3 root, AZURE_STORAGE_ACCOUNT_KEY for one of
    Azure. Default: the identity of the pod's service account."""
    volume_claim: ObjectName | None = None
    """PersistentVolumeClaim (ReadWriteMany) mounted at the path of a `file://` root in every pod. The operator cannot
    read it, and uses the trainer's reports."""
    access_retry_seconds: Annotated[int, Field(ge=0, le=86_400)] = 300
    """How long a start retries an object store that rejects its credentials, before it ends with exit code 85 (87 for
    the store of a source or tokenizer); 0: no retry. Outside a cluster only if this is set."""
    save: SaveSpec = Field(default_factory=SaveSpec)
    """When a checkpoint is made."""
    verify: VerifySpec = Field(default_factory=VerifySpec)
    """How often a committed checkpoint is read back."""
    memory: MemorySpec | None = None
    """Keep the state in the pods' memory too: a start in place repeats few steps. Default: no."""
    keep: Annotated[int, Field(ge=2, le=1000)] = 2
    """Newest checkpoints to keep."""
    permanent: list[PermanentSpec] = Field(default=[], max_length=16)
    """Steps whose checkpoints are always made and kept forever, in rising order of untilStep."""

    rules: ClassVar = (
        Rule(
            "!has(self.root) || !self.root.split('/').exists(part, part == '..' || part == '.')",
            _ROOT_MESSAGE,
            ".root",
            lambda self: instead(self.root),
            check=lambda self: parsed_root(self.root) is not None,
        ),
        Rule(
            "!has(self.volumeClaim) || !has(self.root) || self.root.startsWith('file://')",
            "volumeClaim belongs to a file:// root; leave it out or change root",
            ".volumeClaim",
        ),
    )

    def settings_at(self, address: str) -> tuple[str | None, str | None]:
        """Endpoint and region for another address of the run: those of its root, where it may be in the same
        store.
        """
        azure = address.startswith("az://")
        same = azure == self.root.startswith("az://") and (azure or address.startswith("s3://"))
        return (self.endpoint, self.region) if same else (None, None)

    @model_validator(mode="after")
    def _permanent_steps_rise(self) -> Self:
        until = 0
        for number, entry in enumerate(self.permanent):
            if entry.until_step is None and number + 1 < len(self.permanent):
                raise ValueError("permanent: every entry but the last needs an untilStep")
            if entry.until_step is not None and entry.until_step <= until:
                raise ValueError("permanent must be in rising order of untilStep")
            until = entry.until_step or until
        return self


def parse_root(root: str) -> CheckpointRoot:
    """Parse the address of a root.

    Raises:
        ValueError: The scheme is not allowed, or the path has a part that could lead out of the root.
    """
    found = parsed_root(root)
    if found is None:
        raise ValueError(f"{_ROOT_MESSAGE}{instead(root)}")
    return found


def parsed_root(root: str) -> CheckpointRoot | None:
    """The parsed address of a root; None: it is not valid."""
    if root.startswith("file:///"):
        names = [name for name in root.removeprefix("file://").split("/") if name]
        valid = names and all(
            name.isprintable() and name not in (".", "..") and len(name.encode()) <= MAX_FILE_NAME_BYTES
            for name in names
        )
        return CheckpointRoot("file", "", f"/{'/'.join(names)}") if valid else None
    try:
        parts = urlsplit(root)
    except ValueError:
        return None
    bucket, segments = parts.netloc, [part for part in parts.path.split("/") if part]
    if parts.scheme == "az" and _ACCOUNT.fullmatch(bucket) and segments and _CONTAINER.fullmatch(segments[0]):
        bucket = f"{bucket}/{segments.pop(0)}"
    elif parts.scheme not in ("s3", "gs") or not _BUCKET.fullmatch(bucket):
        return None
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._=-")
    valid = (
        not (parts.query or parts.fragment)
        and segments
        and all(set(part) <= allowed and part not in (".", "..") for part in segments)
    )
    return CheckpointRoot(parts.scheme, bucket, "/".join(segments)) if valid else None


def credential_names(root: str) -> tuple[str, ...]:
    """The variables of `credentialsSecret`."""
    azure = root.startswith("az://")
    return ("AZURE_STORAGE_ACCOUNT_KEY",) if azure else ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


def azure_container(bucket: str, endpoint: str | None) -> tuple[str, dict[str, Any]]:
    """The container of an ``az://`` root and the configuration of its client.

    Args:
        bucket: ``ACCOUNT/CONTAINER``.
        endpoint: Address of another server than Azure's, whose paths begin with the account. Default: Azure's.
    """
    account, _, container = bucket.partition("/")
    config = {"account_name": account}
    if endpoint is not None:
        config["endpoint"] = f"{endpoint.rstrip('/')}/{account}"
    return container, config


def normal_root(root: str) -> str:
    """The one spelling of a root, by which roots are compared. An invalid address only loses its final slashes."""
    found = parsed_root(root)
    if found is None:
        return root.rstrip("/")
    return f"{found.scheme}://{found.bucket}/{found.path.removeprefix('/')}"


def instead(root: str) -> str:
    """The end of a sentence about an invalid root: the root, and the address that may be meant."""
    bucket = re.match("(?:s3|gs)://([^/]+)/", root)
    if bucket and not _BUCKET.fullmatch(bucket[1]):
        return f"; not {root!r}: a BUCKET has 3 to 63 lowercase letters, digits, `.`, `_` and `-`, and is no IP address"
    return f"; not {root!r}{_meant_root(root)}"


def _meant_root(root: str) -> str:
    """The address for a local path, as the end of a sentence; empty for anything else."""
    scheme, mark, path = root.rpartition("file://") if root.startswith("file://") else ("", "", root)
    if scheme or "://" in path or not path:
        return ""
    if path.startswith("/") or (mark and path[0] not in "~."):
        return "" if mark and path.startswith("/") else f"; did you mean file:///{path.strip('/')}?"
    return "; write the whole path, such as file:///home/me/runs/first"
