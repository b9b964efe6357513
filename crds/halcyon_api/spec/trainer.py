"""``spec.trainer``: steps, batch, precision, evaluation and logging, and how a step is computed.

``remat``: what the forward pass keeps for the backward pass. ``offload``: what is in the host's memory between two
updates. ``unroll``: how many blocks of a model one iteration of its loop computes. ``determinism``: whether the same
steps give the same bits each time, or may be faster without that. Only GPUs have operations that add in an order which
changes from run to run; XLA replaces them by others, or rejects them, with one option
(https://openxla.org/xla/determinism). CPUs and TPUs add in a fixed order in any case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from halcyon_api.base import ApiModel, StepCount
from halcyon_api.hardware.kinds import NarrowType
from halcyon_api.spec.attention import ATTENTION_DESCRIPTION, AttentionName
from halcyon_api.spec.evaluation import EvaluationSpec
from halcyon_api.spec.narrow_products import NarrowProducts, NarrowProductsSpec

Remat = Literal["none", "dots", "attention", "full", "nested", "offload", "auto"]
"""A remat policy: what the forward pass keeps for the backward pass."""

REMAT: dict[Remat, str] = {
    "none": "all activations",
    "dots": "results of attention and of products with weights",
    "attention": "results of attention, inputs of blocks",
    "full": "inputs of blocks",
    "nested": "inputs of groups of about sqrt(layers) blocks, recomputed twice",
    "offload": "inputs of blocks, in the host's memory",
    "auto": "that of the first four with the shortest step that fits in a device's memory",
}
"""What each remat policy keeps."""

AUTOMATIC_REMAT: tuple[Remat, ...] = ("none", "dots", "attention", "full")
"""The policies that `auto` chooses from, the one with the least recomputation first."""

REMAT_DESCRIPTION = (
    "What the forward pass keeps for the backward pass. "
    f"{'; '.join(f'`{name}`: {kept}' for name, kept in REMAT.items())}."
)


Offload = Literal["none", "optimizer", "auto"]
"""What is in the host's memory between two updates."""

OFFLOAD: dict[Offload, str] = {
    "none": "nothing",
    "optimizer": "the optimizer state and the average of the parameters, copied both ways in each step",
    "auto": "`optimizer` if no step fits into a device's memory without it, else `none`",
}
"""What each value keeps there."""

AUTOMATIC_OFFLOAD: tuple[Offload, ...] = ("none", "optimizer")
"""The values that `auto` chooses from, the faster one first."""

OFFLOAD_DESCRIPTION = (
    "What is in the host's memory between two updates. "
    f"{'; '.join(f'`{name}`: {kept}' for name, kept in OFFLOAD.items())}."
)


AUTOMATIC_UNROLL = 2
"""The value of ``auto`` where devices send: the compiler can then send for one block while it computes the other. More
blocks make a longer program, and need memory for the arrays of each."""
WITHOUT_LOOP = 32
"""The value of ``auto`` where the forward pass of one GPU keeps all: a loop copies what it keeps into arrays of all
blocks, and first fills them with zeros. Longer loops keep a few iterations, because programs compile more slowly."""

_EXCHANGING = ("fsdp", "expert", "context", "tensor")
"""Axes of the mesh whose devices exchange arrays inside of a block."""

UNROLL_DESCRIPTION = (
    "Blocks in one iteration of the loop over them; more overlap more. `auto`: "
    f"{AUTOMATIC_UNROLL} on GPUs whose mesh has more than `data`, unless the compiler sends for one block during the "
    f"next (compute capability 9 and 10); {WITHOUT_LOOP} on one GPU with remat `none`; else 1."
)


def unrolled_blocks(
    unroll: int | Literal["auto"], platform: str, sizes: Mapping[str, int], remat: Remat, *, pipelined: bool
) -> int:
    """The number of blocks in one iteration.

    On TPUs ``auto`` is 1: in programs for v5p, two blocks cover no more of what devices send
    (docs/design/parallelism.md).

    Args:
        unroll: ``trainer.unroll``.
        platform: ``cpu``, ``gpu`` or ``tpu``.
        sizes: Sizes of the axes of the mesh.
        remat: ``trainer.remat``.
        pipelined: Whether the compiler sends for one block during the next one, by options that want one block in an
            iteration.
    """
    if unroll != "auto":
        return unroll
    if platform != "gpu":
        return 1
    if max(sizes.values(), default=1) == 1:
        return WITHOUT_LOOP if remat == "none" else 1
    return AUTOMATIC_UNROLL if not pipelined and any(sizes.get(axis, 1) > 1 for axis in _EXCHANGING) else 1


Determinism = Literal["bitwise", "fast"]

DETERMINISM: dict[Determinism, str] = {
    "bitwise": "repeated steps give the same bits",
    "fast": "on GPUs, XLA may add in any order, which changes last digits",
}
"""What each value promises."""

DETERMINISM_DESCRIPTION = (
    f"{'; '.join(f'`{name}`: {text}' for name, text in DETERMINISM.items())}. Restarts continue exactly with both."
)

UNORDERED = (
    "scatters, which add by atomic operations",
    "matrix products that are split along the summed axis",
    "convolutions",
)
"""The operations of a GPU that `fast` allows to add in any order: those that XLA's option for determinism excludes."""


@dataclass(frozen=True)
class InEffect:
    """What a run's determinism is on its devices.

    Attributes:
        determinism: The value in effect.
        meaning: One sentence for the log.
    """

    determinism: Determinism
    meaning: str


def in_effect(determinism: Determinism, platform: str) -> InEffect:
    """What a value of ``trainer.determinism`` does on a platform.

    Args:
        determinism: The value.
        platform: ``cpu``, ``gpu`` or ``tpu``.
    """
    if platform != "gpu":
        ignored = (
            f"trainer.determinism: {determinism} changes nothing on this platform ({platform}): "
            if determinism != "bitwise"
            else ""
        )
        return InEffect(
            "bitwise", f"{ignored}all operations add in a fixed order, so the same steps give the same bits"
        )
    if determinism == "bitwise":
        return InEffect(
            "bitwise",
            f"XLA leaves out operations that add in a changing order ({', '.join(UNORDERED)}); fast allows them",
        )
    return InEffect(
        "fast",
        f"XLA may use operations that add in a changing order ({', '.join(UNORDERED)}), so losses of repeated steps "
        "differ in their last digits; a restart still continues from the exact state, with the same batches",
    )


MomentsType = Literal["float32", "bfloat16", "float8"]
"""Type of the stored moments of an update rule."""
NARROW_MOMENTS_BETA = 0.95
"""Largest decay rate of a moment in bfloat16 that is rounded to the nearest number. Neighbouring bfloat16 numbers
differ by up to 2**-7 (relative), so rounding stops a decay by a share of 1 - beta while the moment still has an error
of 2**-8 / (1 - beta): 8 % for 0.95, 39 % for 0.99; for 0.999 it never changes."""


class PrecisionSpec(ApiModel):
    """Types of parameters, moments and matrix products."""

    parameters: Literal["float32", "bfloat16"] = "float32"
    """Type of the stored parameters. With bfloat16, an update smaller than about 1/512 of its parameter is lost in
    rounding, unless `rounding` is stochastic."""
    rounding: Literal["stochastic"] | None = None
    """How updated parameters are rounded to bfloat16. stochastic: to a neighbour by chance, so that small
    updates are not lost on average. Default: to the nearest number."""
    moments: MomentsType = "float32"
    """Type of the stored optimizer moments. bfloat16 with larger betas needs `momentsRounding`. float8 has a scale for
    each row, stochastic rounding and roots of second moments; vectors stay float32."""
    moments_rounding: Literal["stochastic"] | None = None
    """How moments are rounded to bfloat16, as in `rounding`: stochastic does not lose a slow decay."""
    compute: Literal["float32", "bfloat16"] = "float32"
    """Type of activations and matrix products. Softmax, norms, the loss, and sums of gradients over batch and positions
    are always float32."""
    products: NarrowType | None = None
    """Type to which the factors of matrix products are rounded: in the linear maps of blocks, the output head (float8,
    mxfp8) and experts (float8, int8). nvfp4 is for the products of linear maps without their gradients. Tables, routers
    and attention stay in `compute`. Default: the type `compute`."""
    narrow_products: NarrowProductsSpec | None = None
    """The finer choices for `products`. Default: that of each field."""

    @property
    def narrow(self) -> NarrowProducts | None:
        """The type of `products` with all its choices; None: all products have the type `compute`."""
        return None if self.products is None else NarrowProducts.of(self.products, self.narrow_products)


Rate = Annotated[float, Field(ge=0, lt=1)]


class DropoutSpec(ApiModel):
    """Dropout (Srivastava et al. 2014) in training steps."""

    embedding: Rate = 0.0
    """Share of the features that enter the first block."""
    residual: Rate = 0.0
    """Share of what attention and MLP add."""
    attention: Rate = 0.0
    """Share of the weights of keys. It needs attention `reference`, which `auto` then takes, and no `context` axis."""
    frames: Rate = 0.0
    """Of a sound: share of the frames, in runs of 10."""
    bands: Rate = 0.0
    """Of a sound: share of the features, in runs of 10."""

    @property
    def drops(self) -> bool:
        """Whether a rate is above 0."""
        return max(self.embedding, self.residual, self.attention, self.frames, self.bands) > 0


BatchSize = Annotated[int, Field(ge=1, le=16_777_216)]
SequenceLength = Annotated[int, Field(ge=2, le=16_777_216)]


class BatchScheduleEntry(ApiModel):
    """Sizes from one step on. A size that is not set stays the same."""

    from_step: StepCount
    """First step (counted from 0) with these sizes."""
    batch_size: BatchSize | None = None
    """Sequences of one step."""
    sequence_length: SequenceLength | None = None
    """Tokens of a sequence. All lengths of a run must divide the longest one."""


MAX_MICROBATCHES, MAX_UNROLL = 65_536, 1024


def _number_or_auto(most: int) -> BeforeValidator:
    """One validator gives one sentence: each member of a union would give its own."""

    def check(value: object) -> object:
        if value == "auto" or (type(value) is int and 1 <= value <= most):
            return value
        raise ValueError(f"must be a whole number from 1 to {most}, or auto")

    return BeforeValidator(check)


Microbatches = Annotated[
    Annotated[int, Field(ge=1, le=MAX_MICROBATCHES)] | Literal["auto"], _number_or_auto(MAX_MICROBATCHES)
]
Unroll = Annotated[Annotated[int, Field(ge=1, le=MAX_UNROLL)] | Literal["auto"], _number_or_auto(MAX_UNROLL)]


class TrainerSpec(ApiModel):
    """The training loop."""

    steps: StepCount
    """Optimizer steps of the whole run."""
    batch_size: BatchSize
    """Sequences of one step, over all devices. If the data parallelism times `microbatches` does not divide it, rows
    without weight fill the devices."""
    sequence_length: SequenceLength = 1024
    """Tokens of a sequence."""
    batch_schedule: list[BatchScheduleEntry] = Field(default=[], max_length=32)
    """Other batch sizes and sequence lengths from given steps on, in rising order of `fromStep`."""
    microbatches: Microbatches = 1
    """Parts of a batch, computed one after the other to save memory; the result is the same up to rounding. `auto`: the
    least number whose step fits into a device's memory; 1 if its size is not known."""
    remat: Remat = Field(default="none", description=REMAT_DESCRIPTION)
    unroll: Unroll = Field(default=1, description=UNROLL_DESCRIPTION)
    offload: Offload = Field(default="none", description=OFFLOAD_DESCRIPTION)
    attention: AttentionName = Field(default="auto", description=ATTENTION_DESCRIPTION)
    determinism: Determinism = Field(default="bitwise", description=DETERMINISM_DESCRIPTION)
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 0
    """Seed of the initial parameters and of the order of the data."""
    precision: PrecisionSpec = Field(default_factory=PrecisionSpec)
    """Floating-point types."""
    dropout: DropoutSpec | None = None
    """Random features set to 0 in training steps, as the seed, the step and the row decide. Default: none."""
    evaluation: EvaluationSpec = Field(default_factory=EvaluationSpec)
    """Evaluation during the run."""
    log_every_steps: StepCount = 1
    """Log a line of metrics every N steps."""

    @property
    def least_microbatches(self) -> int:
        """The number of microbatches; 1 if it is chosen automatically."""
        return 1 if self.microbatches == "auto" else self.microbatches

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """All batch sizes of the run."""
        return (self.batch_size, *(entry.batch_size for entry in self.batch_schedule if entry.batch_size))

    @property
    def longest_sequence(self) -> int:
        """Tokens of the longest sequence of the run."""
        return max(self.sequence_length, *(entry.sequence_length or 0 for entry in self.batch_schedule), 0)

    @property
    def tokens(self) -> int:
        """Tokens of the whole run: the sum of batch size times sequence length over its steps."""
        total, first, batch_size, sequence_length = 0, 0, self.batch_size, self.sequence_length
        for entry in self.batch_schedule:
            end = min(entry.from_step, self.steps)
            total += (end - first) * batch_size * sequence_length
            first, batch_size = end, entry.batch_size or batch_size
            sequence_length = entry.sequence_length or sequence_length
        return total + (self.steps - first) * batch_size * sequence_length

    @model_validator(mode="after")
    def _batch_schedule_rises(self) -> Self:
        first = 0
        for entry in self.batch_schedule:
            if entry.from_step <= first:
                raise ValueError("batchSchedule must be in rising order of fromStep")
            first = entry.from_step
        return self
