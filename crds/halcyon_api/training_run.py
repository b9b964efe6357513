"""The ``TrainingRun`` resource as a whole.

The fields that define the mathematics of a run (model, tokenizer, data, optimizer, batch, seed, precision) and the
checkpoint root must not change while the run exists: the API server rejects such an edit. The fields that only define
where, how and how long it is computed (image, accelerator, mesh, microbatches, evaluation, recovery, steps) may change;
`halcyon_api.edits` defines the effect of an edit of each field.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import ConfigDict, Field, StringConstraints, field_validator, model_validator

from halcyon_api.base import MAX_NAME_LENGTH, ApiModel, Rule, RuledModel, RunName, Seconds, cel, optional
from halcyon_api.edits.steps import steps_rule
from halcyon_api.hardware import TABLE
from halcyon_api.hardware.kinds import NarrowType
from halcyon_api.names import MAX_RUN_NAME_LENGTH
from halcyon_api.spec.accelerator import AcceleratorSpec
from halcyon_api.spec.adapter import AdapterSpec, LoraSpec
from halcyon_api.spec.attention import ATTENTION_RULES
from halcyon_api.spec.average import AverageSpec
from halcyon_api.spec.budget import BudgetSpec
from halcyon_api.spec.checkpoint import CheckpointSpec, normal_root, parse_root
from halcyon_api.spec.data import DataSpec
from halcyon_api.spec.export import ExportSpec
from halcyon_api.spec.mesh import REST, MeshSpec, on
from halcyon_api.spec.model import FAMILIES, Model
from halcyon_api.spec.narrow_products import HEAD_TYPES, PARAMETER_GRADIENT_TYPES
from halcyon_api.spec.objective import MULTI_TOKEN_WEIGHT, ObjectiveSpec, next_token
from halcyon_api.spec.optimizer import OptimizerSpec
from halcyon_api.spec.origin import AfterSpec, OriginSpec
from halcyon_api.spec.place import PlaceSpec
from halcyon_api.spec.recovery import RecoverySpec
from halcyon_api.spec.rules import AdamWSpec
from halcyon_api.spec.scheduling import SchedulingSpec
from halcyon_api.spec.telemetry import TelemetrySpec
from halcyon_api.spec.tokenizer import ByteTokenizerSpec, TokenizerSpec
from halcyon_api.spec.trainer import NARROW_MOMENTS_BETA, TrainerSpec
from halcyon_api.spec.variables import MAX_VARIABLES, VariableSpec, each_once
from halcyon_api.status.run_status import TrainingRunStatus

GROUP = "halcyon.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TrainingRun"
PLURAL = "trainingruns"
SINGULAR = "trainingrun"
SHORT_NAME = "trun"
CATEGORY = "training"

_NAME_RULE = cel(
    f"self.metadata.name.size() <= {MAX_RUN_NAME_LENGTH} && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    f"metadata.name must have at most {MAX_RUN_NAME_LENGTH} characters (pod names and the coordinator's label are made "
    "from it), begin with a letter and consist of lower-case letters, digits and `-`",
)


_ROOT_STAYS = cel(
    "has(self.spec.checkpoint.root) == has(oldSelf.spec.checkpoint.root) || self.?status.?attempt.orValue(0) == 0",
    "checkpoint.root must not be added or removed once the run has begun; make a new run with another name",
    field_path=".spec.checkpoint",
    reason="FieldValueForbidden",
)

_ICI = "(self.mesh.ici.{0} > 0 ? self.mesh.ici.{0} : 1)"
_FIXED = " * ".join(_ICI.format(row.name) for row in on("ici"))
_HAS_REST = f"[{', '.join(f'self.mesh.ici.{row.name}' for row in on('ici'))}].exists(size, size == {REST})"
_SIDES = "self.accelerator.topology.split('x')"
_PAIRED = [row.name for row in TABLE.values() if row.devices_per_chip == 2]
_SLICE_DEVICES = (
    f"int({_SIDES}[0]) * int({_SIDES}[1]) * int({_SIDES}[?2].orValue('1')) * (self.accelerator.type in {_PAIRED} ? "
    "2 : 1)"
)
# CEL has no variables: a list with one number stands for one.
_MESH_FITS = f"[{_SLICE_DEVICES}].all(have, [{_FIXED}].all(want, {_HAS_REST} ? have % want == 0 : have == want))"

_ENCODERS = [family for family, section in FAMILIES.items() if section.encoder]

Task = Literal["train", "data", "evaluate", "replay", "measure", "sample"]


def _narrow_rules() -> Iterator[Rule]:
    """One rule for the types that the same accelerators are faster in."""
    kinds: dict[tuple[str, ...], list[NarrowType]] = {}
    for kind in get_args(NarrowType):
        kinds.setdefault(tuple(row.name for row in TABLE.values() if kind in row.narrow), []).append(kind)
    yield from map(_narrow_rule, kinds.values(), kinds)


def _narrow_rule(kinds: list[NarrowType], having: tuple[str, ...]) -> Rule:
    return Rule(
        f"!(self.trainer.precision.?products.orValue('') in {kinds}) || self.accelerator.type in {list(having)}",
        f"trainer.precision.products: {' and '.join(kinds)} {'needs' if len(kinds) == 1 else 'need'} an accelerator "
        "that is faster in it (docs/hardware.md lists them); leave products out, or change accelerator.type",
        ".trainer.precision.products",
        lambda _: f" to {', '.join(having)}",
    )


def _narrow_field_rule(field: str, kinds: tuple[NarrowType, ...], reason: str, *, wrong: str = "") -> Rule:
    """A field of ``trainer.precision.narrowProducts`` for some types only.

    Args:
        field: Its name.
        kinds: The types.
        reason: Why other types do not have it.
        wrong: The value that other types do not have; any, if empty.
    """
    path = f"self.trainer.precision.?narrowProducts.?{field}"
    allowed = f"{path}.orValue(false) != {wrong}" if wrong else f"!{path}.hasValue()"

    return Rule(
        f"{allowed} || self.trainer.precision.?products.orValue('{kinds[0]}') in {list(kinds)}",
        f"trainer.precision.narrowProducts.{field}{f': {wrong}' if wrong else ''} is for {', '.join(kinds)} only: "
        f"{reason}; leave it out",
        f".trainer.precision.narrowProducts.{field}",
    )


class TrainingRunSpec(RuledModel):
    """What to train, on what hardware, and where the checkpoints are kept."""

    defaults: (
        Annotated[str, StringConstraints(max_length=MAX_NAME_LENGTH, pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$")]
        | None
    ) = None
    """Name of the TrainingRunDefaults, in the run's namespace and in the operator's, that fill in the fields missing
    here. Default: `default`. An empty string: no defaults."""
    image: str | None = optional(max_length=512, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*$")
    """Image of the trainer. Default: the trainer image of the operator's version."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When the kubelet pulls the image."""
    origin: OriginSpec | None = optional(alias="from")
    """Begin with a checkpoint of another run, or with the weights of a Hugging Face model. Model and tokenizer must be
    the same, steps count on from it, and this document sets everything else."""
    after: AfterSpec | None = None
    """Begin when another run has succeeded, such as a run of task `data` that builds this run's tokens."""
    env: list[VariableSpec] = Field(
        default=[],
        max_length=MAX_VARIABLES,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    """Environment variables of the trainer. The operator's settings list the allowed names: by default
    `XLA_FLAGS`, `LIBTPU_INIT_ARGS`, `NCCL_*` and `HF_TOKEN`. On your own machine, a variable that your shell sets keeps
    its value."""
    task: Task = "train"
    """`train`; `data`: only build the token cache, on hosts without accelerators; `evaluate`: only evaluate the
    checkpoint of `from` on the held-out part of each source; `replay`: compute the steps after that checkpoint again,
    and compare every bit; `measure`: only measure how fast the devices exchange data."""
    accelerator: AcceleratorSpec
    """The hardware: identical slices of one topology and one accelerator type."""
    mesh: MeshSpec | None = None
    """The named axes of the devices. Default: chosen by the model's size and a device's memory, and kept for the life
    of the run; only `fsdp` wherever the model then fits."""
    place: PlaceSpec | None = None
    """Other rows of hardware on which the run may train. Default: it waits for `accelerator`."""
    model: Model
    """The architecture. `family` decides what other fields it has; they have the names of Hugging Face's
    `config.json`."""
    adapter: AdapterSpec | None = None
    """Train only an adapter beside the weights of `from`."""
    tokenizer: TokenizerSpec = Field(default_factory=lambda: TokenizerSpec(byte=ByteTokenizerSpec()))
    """The tokenizer: exactly one member."""
    data: DataSpec
    """The training data and its order."""
    optimizer: OptimizerSpec = Field(default_factory=lambda: OptimizerSpec(adamw=AdamWSpec()))
    """Learning rate, schedule, weight decay, clipping, and the update rule: exactly one member."""
    objective: ObjectiveSpec = Field(default_factory=next_token)
    """Objective: exactly one member. Default: `nextToken`."""
    average: AverageSpec | None = None
    """Keep an average of the parameters beside them, evaluate it too, and export it by choice: exactly one member."""
    trainer: TrainerSpec
    """The training loop: steps, batch, precision, evaluation, logging."""
    checkpoint: CheckpointSpec
    """Where the run's checkpoints are kept and when they are made."""
    export: ExportSpec | None = None
    """Write the model for other programs while the run trains. Default: only `halcyon export` writes it."""
    recovery: RecoverySpec = Field(default_factory=RecoverySpec)
    """What happens when something fails."""
    scheduling: SchedulingSpec = Field(default_factory=SchedulingSpec)
    """Placement and priority of the pods."""
    managed_by: Literal["kueue.x-k8s.io/multikueue"] | None = None
    """Train on the worker cluster that MultiKueue chooses. Default: train in this cluster."""
    telemetry: TelemetrySpec = Field(default_factory=TelemetrySpec)
    """How the run is monitored."""
    budget: BudgetSpec | None = None
    """What the run may use before it is suspended. Default: no limit."""
    plan: Literal["require", "warn", "off"] | None = None
    """Compile the step before the first attempt, in a pod without accelerators. require: a run that does
    not fit, or whose plan fails, takes no hardware. warn: it says so and begins. Default: the operator's."""
    suspend: bool = False
    """true: save a checkpoint, release the hardware and wait. false: continue from the checkpoint."""
    ttl_seconds_after_finished: Seconds | None = None
    """Delete the TrainingRun, with its pods and their logs, this many seconds after it has succeeded. Its checkpoints
    stay. Default: never."""

    cel_rules: ClassVar = (
        # `halcyon_api.validation` checks these two too, with the sizes in the message and for other numbers of slices.
        cel(
            f"!has(self.mesh) || {_MESH_FITS}",
            "the mesh.ici axes multiply to the devices of a slice (HOSTS x DEVICES of a cpu or GPU topology, the chips "
            "of a TPU topology, "
            "twice those of v7x), or divide them if one of the axes is -1; change mesh.ici or accelerator.topology",
            field_path=".mesh.ici",
        ),
        cel(
            "!has(self.mesh) || self.mesh.dcn.replica == -1 || self.mesh.dcn.replica == self.accelerator.slices",
            "mesh.dcn.replica must be -1 or equal accelerator.slices",
            field_path=".mesh.dcn.replica",
        ),
    )
    rules: ClassVar = (
        Rule(
            "!self.?budget.?money.hasValue() || has(self.accelerator.pricePerChipHour)",
            "budget.money needs accelerator.pricePerChipHour; set the price, or use budget.chipHours",
            ".budget.money",
        ),
        Rule(
            "!has(self.from) || self.task != 'data'",
            "from begins a training with a checkpoint, or names the one that is evaluated; leave it out with task: "
            "data",
            ".from",
        ),
        Rule(
            "self.task != 'evaluate' || self.?from.?run.hasValue()",
            "task: evaluate needs from.run, the run whose checkpoint is evaluated; import a Hugging Face model first "
            "(`halcyon import hf`)",
            ".from",
        ),
        Rule(
            "self.task == 'replay' ? self.?from.?run.hasValue() && self.?from.?step.hasValue() && "
            "!has(self.from.weightsOnly) : !self.?from.?toStep.hasValue()",
            "task: replay needs from.run and from.step, the checkpoint to begin with, and its whole state; from.toStep "
            "is for this task only",
            ".from",
            check=lambda self: (
                (self.origin is not None and None not in (self.origin.run, self.origin.step))
                and self.origin.weights_only is None
                if self.task == "replay"
                else self.origin is None or self.origin.to_step is None
            ),
        ),
        Rule(
            "self.task != 'train' || self.?from.?weightsOnly.hasValue() || self.?from.?step.orValue(0) < "
            "self.trainer.steps",
            "from.step must be less than trainer.steps, which counts the steps of the run that this one begins from "
            "too",
            ".from.step",
        ),
        Rule(
            "self.task != 'sample' || has(self.objective.policy)",
            "task: sample samples the answers of a run with objective.policy; give it the document of that run",
            ".task",
        ),
        Rule(
            "!has(self.checkpoint.root) || self.?from.?root.orValue('') != self.checkpoint.root",
            "from.root is the other run's; give this run a checkpoint.root of its own",
            ".from.root",
            check=lambda self: (
                self.origin is None or normal_root(self.origin.root or "") != normal_root(self.checkpoint.root)
            ),
        ),
        Rule(
            "self.model.family in ['custom', 'huggingFace'] || "
            f"has(self.objective.maskedToken) == (self.model.family in {_ENCODERS}) || "
            f"(self.model.family in {_ENCODERS} && (has(self.objective.classify) || has(self.objective.contrastive)))",
            f"encoders ({', '.join(_ENCODERS)}) have objective.maskedToken, which only they have, "
            "objective.classify or objective.contrastive; change objective or model.family",
            ".objective",
        ),
        Rule(  # the store of the run's own root, or of the other run's
            "!(has(self.checkpoint.endpoint) || has(self.checkpoint.credentialsSecret)) || !has(self.checkpoint.root) "
            "|| [self.checkpoint.root, self.?from.?root.orValue('')].exists(root, root.matches('^(s3|az)://'))",
            "checkpoint.endpoint and checkpoint.credentialsSecret belong to an s3:// or az:// root; leave them out or "
            "change checkpoint.root",
            ".checkpoint",
        ),
        Rule(
            "!has(self.export) || self.task == 'train'",
            "export writes the models of a training; leave it out with another task",
            ".export",
        ),
        Rule(
            "!has(self.export) || self.model.family != 'custom'",
            "export writes the files of Hugging Face, which the family custom does not have; leave export out",
            ".export",
        ),
        Rule(
            "!has(self.checkpoint.root) || self.?export.?root.orValue('') != self.checkpoint.root",
            "export.root is checkpoint.root; give the exports a folder of their own, or leave export.root out",
            ".export.root",
            check=lambda self: (
                self.export is None or normal_root(self.export.root or "") != normal_root(self.checkpoint.root)
            ),
        ),
        Rule(
            "self.trainer.precision.moments != 'bfloat16' || has(self.trainer.precision.momentsRounding) || "
            f"!has(self.optimizer.adamw) || (self.optimizer.adamw.beta1 <= {NARROW_MOMENTS_BETA} && "
            f"self.optimizer.adamw.beta2 <= {NARROW_MOMENTS_BETA})",
            "trainer.precision.moments: bfloat16 needs optimizer.adamw.beta1 and beta2 of at most "
            f"{NARROW_MOMENTS_BETA}, because moments that decay more slowly stop changing in that type; set "
            "momentsRounding to stochastic, use float32, or lower the betas",
            ".trainer.precision.moments",
        ),
        Rule(
            "!has(self.trainer.precision.momentsRounding) || self.trainer.precision.moments == 'bfloat16'",
            "trainer.precision.momentsRounding needs trainer.precision.moments: bfloat16, because float32 needs no "
            "rounding and float8 is always rounded stochastically; leave momentsRounding out",
            ".trainer.precision.momentsRounding",
        ),
        Rule(
            "!has(self.trainer.precision.rounding) || self.trainer.precision.parameters == 'bfloat16'",
            "trainer.precision.rounding needs trainer.precision.parameters: bfloat16, because float32 parameters keep "
            "small updates; leave rounding out",
            ".trainer.precision.rounding",
        ),
        *_narrow_rules(),
        Rule(
            "!has(self.trainer.precision.narrowProducts) || has(self.trainer.precision.products)",
            "trainer.precision.narrowProducts needs trainer.precision.products, the type that it is for; set "
            "products, or leave narrowProducts out",
            ".trainer.precision.narrowProducts",
        ),
        _narrow_field_rule("scales", ("float8", "int8"), "the other types have a scale for each block of values"),
        _narrow_field_rule("gradients", ("float8",), "only it has two forms"),
        _narrow_field_rule("fastAccumulation", ("float8",), "only its sums can have fewer bits"),
        _narrow_field_rule(
            "parameterGradients",
            PARAMETER_GRADIENT_TYPES,
            "the other types have no products for gradients",
            wrong="true",
        ),
        _narrow_field_rule("head", HEAD_TYPES, "the gradient of a softmax needs their range", wrong="true"),
        Rule(
            "!has(self.recovery.elastic) || (self.recovery.elastic.minSlices <= self.accelerator.slices && "
            "self.accelerator.slices <= self.recovery.elastic.?maxSlices.orValue(self.accelerator.slices))",
            "accelerator.slices must lie between recovery.elastic.minSlices and recovery.elastic.maxSlices",
            ".recovery.elastic",
        ),
        Rule(
            "!has(self.recovery.elastic) || !has(self.mesh) || self.mesh.dcn.replica == -1",
            "leave mesh.dcn.replica out with recovery.elastic, because the number of slices changes",
            ".mesh.dcn.replica",
        ),
        Rule(
            "!has(self.recovery.elastic) || !has(self.scheduling.queue)",
            "recovery.elastic cannot be used with scheduling.queue, which admits all slices at once or none; leave one "
            "of the two out",
            ".scheduling.queue",
        ),
        Rule(
            "!has(self.place) || !has(self.recovery.elastic)",
            "place cannot be used with recovery.elastic, because each row has its slices; leave one of the two out, or "
            "give a row with fewer slices",
            ".place",
        ),
        Rule(
            "!self.?place.?by.hasValue() || !has(self.scheduling.queue)",
            "place.by cannot be used with scheduling.queue, because a search for room is outside its quota; leave by "
            "out, and the run still tries its rows in turn",
            ".place.by",
        ),
        Rule(
            "!has(self.managedBy) || (!has(self.place) && has(self.scheduling.queue) && "
            "!has(self.scheduling.queue.priorityClass) && !has(self.scheduling.queue.topology) && "
            "!has(self.scheduling.queue.maxRunDurationSeconds))",
            "managedBy needs scheduling.queue with its name alone, and no place, because Kueue finds a cluster for one "
            "row of hardware by its quota; set the name, and leave the others out",
            ".managedBy",
        ),
        *ATTENTION_RULES,
    )

    @property
    def multi_token_weight(self) -> float | None:
        """The weight of the losses of the layers that predict further tokens; None: the model has none."""
        if getattr(self.model, "num_nextn_predict_layers", None) is None:
            return None
        stated: float | None = getattr(self.objective.value, "multi_token_weight", None)
        return MULTI_TOKEN_WEIGHT if stated is None else stated

    @property
    def has_steps(self) -> bool:
        """Whether the task computes training steps."""
        return self.task in ("train", "replay")

    @property
    def lora(self) -> LoraSpec | None:
        """``adapter.lora``; None: the run has no adapter."""
        return None if self.adapter is None else self.adapter.lora

    @field_validator("env")
    @classmethod
    def _each_variable_once(cls, env: list[VariableSpec]) -> list[VariableSpec]:
        return each_once(env)

    @model_validator(mode="after")
    def _other_roots_are_addresses(self) -> Self:
        for where, place in (("from", self.origin), ("data.cache", self.data.cache)):
            if place and place.root is not None:
                try:
                    parse_root(place.root)
                except ValueError as error:
                    raise ValueError(f"{where}.{error}") from None
        return self


class ObjectMeta(ApiModel):
    """The part of an object's metadata that Halcyon reads. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore")

    name: RunName
    namespace: Annotated[str, StringConstraints(max_length=63)] = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None


class TrainingRun(RuledModel):
    """Trains a language model and continues after the loss of machines."""

    api_version: Literal["halcyon.dev/v1alpha1"]
    """Version of this document's schema."""
    kind: Literal["TrainingRun"]
    """Kind of the document."""
    metadata: ObjectMeta
    """Name and namespace of the run."""
    spec: TrainingRunSpec
    """What to train, on what hardware, and where the checkpoints are kept."""
    status: TrainingRunStatus | None = None
    """The state of the run, written by the operator."""

    cel_rules: ClassVar = (_NAME_RULE, steps_rule(), _ROOT_STAYS)
    rules: ClassVar = (
        Rule(
            "self.spec.?from.?run.orValue('') != self.metadata.name",
            "spec.from.run is the run itself; name another one",
            ".spec.from.run",
        ),
        Rule(
            "self.spec.?after.run.orValue('') != self.metadata.name",
            "spec.after.run is the run itself; name another one, or leave after out",
            ".spec.after.run",
        ),
    )
