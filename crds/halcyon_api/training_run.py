"""The ``TrainingRun`` resource as a whole, and how its document is read.

What defines the mathematics of a run (model, tokenizer, data, optimizer, steps, batch, seed, precision) and the place of its
checkpoints must not change while it exists: the API server refuses such an edit. What only says where and how it is computed
(image, accelerator, mesh, microbatches, evaluation, recovery) may change; the operator then makes a new attempt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import ConfigDict, Field, StringConstraints, ValidationError

from halcyon_api.base import ApiModel, Seconds, cel
from halcyon_api.names import MAX_RUN_NAME_LENGTH
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.data import DataSpec
from halcyon_api.spec.mesh import MeshSpec
from halcyon_api.spec.model import ModelSpec
from halcyon_api.spec.operations import RecoverySpec, SchedulingSpec, TelemetrySpec
from halcyon_api.spec.optimizer import AdamWSpec, OptimizerSpec
from halcyon_api.spec.tokenizer import ByteTokenizerSpec, TokenizerSpec
from halcyon_api.spec.trainer import TrainerSpec
from halcyon_api.status import TrainingRunStatus

GROUP = "halcyon.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TrainingRun"
PLURAL = "trainingruns"
SINGULAR = "trainingrun"
SHORT_NAME = "trun"
CATEGORY = "training"

FROZEN_SECTIONS = ("stage", "model", "tokenizer", "optimizer")
FROZEN_DATA_FIELDS = ("sources", "mixture", "order", "validation", "attendAcrossDocuments")
FROZEN_TRAINER_FIELDS = ("steps", "batchSize", "sequenceLength", "stages", "seed", "precision")
FROZEN_CHECKPOINT_FIELDS = ("root",)

_NAME_RULE = cel(
    f"self.metadata.name.size() <= {MAX_RUN_NAME_LENGTH} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    f"metadata.name must have at most {MAX_RUN_NAME_LENGTH} characters (pod names and the coordinator's label are made from it), begin "
    "with a letter and consist of lower-case letters, digits and `-`",
)


def _frozen(path: str) -> dict[str, str]:
    return cel(
        f"self.{path} == oldSelf.{path}",
        f"{path} must not change while the run exists; make a new run with another name and checkpoint.root",
        field_path=f".{path}",
        reason="FieldValueForbidden",
    )


_ICI = "(self.mesh.ici.{0} > 0 ? self.mesh.ici.{0} : 1)"
_FIXED = " * ".join(_ICI.format(axis) for axis in ("data", "fsdp", "tensor"))
_HAS_REST = "[self.mesh.ici.data, self.mesh.ici.fsdp, self.mesh.ici.tensor].exists(size, size == -1)"
_SLICE_DEVICES = "(int(self.accelerator.topology.split('x')[0]) * int(self.accelerator.topology.split('x')[1]))"
_TENSOR = (
    "(self.mesh.ici.tensor > 0 ? self.mesh.ici.tensor : "
    f"{_SLICE_DEVICES} / ((self.mesh.ici.data > 0 ? self.mesh.ici.data : 1) * (self.mesh.ici.fsdp > 0 ? self.mesh.ici.fsdp : 1)))"
)
_MESH_FITS = f"({_HAS_REST} ? {_SLICE_DEVICES} % ({_FIXED}) == 0 : {_SLICE_DEVICES} == {_FIXED})"


class TrainingRunSpec(ApiModel):
    """What to train, on what, and where its checkpoints live."""

    image: Annotated[str, StringConstraints(max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")] | None = Field(
        default=None,
        description="Image of the trainer. Default: the operator's trainer image, of the same version as the operator.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="When the kubelet pulls the image."
    )
    stage: Literal["train", "data"] = Field(
        default="train",
        description="`train`: train. `data`: only build the token cache of `data`, on hosts without accelerators, and end.",
    )
    accelerator: AcceleratorSpec = Field(description="The hardware: so many slices of one topology of one type.")
    mesh: MeshSpec = Field(default_factory=MeshSpec, description="How the devices are arranged into named axes.")
    model: ModelSpec = Field(description="The architecture: exactly one member.")
    tokenizer: TokenizerSpec = Field(
        default_factory=lambda: TokenizerSpec(byte=ByteTokenizerSpec()),
        description="The tokenizer: exactly one member.",
    )
    data: DataSpec = Field(description="What is trained on, and in which order.")
    optimizer: OptimizerSpec = Field(
        default_factory=lambda: OptimizerSpec(adamw=AdamWSpec()), description="The update rule: exactly one member."
    )
    trainer: TrainerSpec = Field(description="The training loop: steps, batch, precision, evaluation, logging.")
    checkpoint: CheckpointSpec = Field(description="Where the run's checkpoints live and when they are made.")
    recovery: RecoverySpec = Field(default_factory=RecoverySpec, description="What happens when something fails.")
    scheduling: SchedulingSpec = Field(default_factory=SchedulingSpec, description="Where and with which rank the pods are placed.")
    telemetry: TelemetrySpec = Field(default_factory=TelemetrySpec, description="How the run is watched.")
    suspend: bool = Field(
        default=False, description="true: save a checkpoint, release the hardware and wait. false: go on from the checkpoint."
    )
    ttl_seconds_after_finished: Seconds | None = Field(
        default=None, description="Delete the run's pods this long after its end. The TrainingRun and its checkpoints stay."
    )

    cel_rules: ClassVar = (
        *(_frozen(section) for section in FROZEN_SECTIONS),
        *(_frozen(f"data.{field}") for field in FROZEN_DATA_FIELDS),
        *(_frozen(f"trainer.{field}") for field in FROZEN_TRAINER_FIELDS),
        *(_frozen(f"checkpoint.{field}") for field in FROZEN_CHECKPOINT_FIELDS),
        cel(
            _MESH_FITS,
            "the mesh.ici axes multiply to the devices of a slice (HOSTS x DEVICES of a cpu topology, the chips of a TPU topology), or "
            "divide them if one of the axes is -1; change mesh.ici or accelerator.topology",
            field_path=".mesh.ici",
        ),
        cel(
            "self.mesh.dcn.replica == -1 || self.mesh.dcn.replica == self.accelerator.slices",
            "mesh.dcn.replica must be -1 or equal accelerator.slices",
            field_path=".mesh.dcn.replica",
        ),
        cel(
            f"!{_MESH_FITS} || self.trainer.batchSize % (self.accelerator.slices * ({_SLICE_DEVICES} / {_TENSOR}) * "
            "self.trainer.microbatches) == 0",
            "trainer.batchSize must be a multiple of the data parallelism (all devices by the tensor axis) times trainer.microbatches",
            field_path=".trainer.batchSize",
        ),
    )


class ObjectMeta(ApiModel):
    """The part of an object's metadata that Halcyon reads. Everything else the server puts there is passed over."""

    model_config = ConfigDict(extra="ignore")

    name: Annotated[str, StringConstraints(min_length=1, max_length=MAX_RUN_NAME_LENGTH, pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$")]
    namespace: Annotated[str, StringConstraints(max_length=63)] = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class TrainingRun(ApiModel):
    """A training of a language model that survives the loss of its machines."""

    api_version: Literal["halcyon.dev/v1alpha1"] = Field(description="Version of this document's schema.")
    kind: Literal["TrainingRun"] = Field(description="Kind of the document.")
    metadata: ObjectMeta = Field(description="Name and namespace of the run.")
    spec: TrainingRunSpec = Field(description="What to train, on what, and where its checkpoints live.")
    status: TrainingRunStatus | None = Field(default=None, description="What the operator knows of the run.")

    cel_rules: ClassVar = (_NAME_RULE,)


class InvalidRun(ValueError):
    """The document is not a valid TrainingRun. The message is one sentence for each fault, each naming its field."""


def parse_run(document: Any) -> TrainingRun:
    """Check a parsed YAML or JSON document.

    Raises:
        InvalidRun: The document does not fit the schema.
    """
    try:
        return TrainingRun.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        raise InvalidRun("; ".join(_sentence(fault) for fault in error.errors())) from None


def load_run(path: Path) -> TrainingRun:
    """Read a ``run.yaml``.

    Raises:
        InvalidRun: The file is missing, is not YAML, or is not a valid TrainingRun.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidRun(f"{path}: {error.strerror}; give the path of a TrainingRun document") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidRun(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return parse_run(document)


def _sentence(fault: Any) -> str:
    where = ".".join(str(part) for part in fault["loc"]) or "document"
    what: str = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        what = "unknown field; check the spelling (kubectl explain trainingrun.spec shows what exists)"
    return f"{where}: {what}"
