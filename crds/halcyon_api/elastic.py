"""The numbers of slices on which a run may train, and how each of them gives the same results.

The batch of a step is the same on any number of slices: only the distribution of its rows differs, and the loss is a
sum over all rows that is divided once. The number of rows that a device holds at a time changes with the number of
slices, and with it the memory of a step. So the batch is cut into enough microbatches that a device holds at most as
many rows as on `accelerator.slices`.
"""

import math

from halcyon_api.mesh import run_mesh
from halcyon_api.spec.mesh import InvalidMesh
from halcyon_api.spec.trainer import MAX_MICROBATCHES, TrainerSpec
from halcyon_api.training_run import TrainingRunSpec


def wanted_slices(spec: TrainingRunSpec) -> int:
    """Slices that the run would have if there were room for them."""
    elastic = spec.recovery.elastic
    return spec.accelerator.slices if elastic is None or elastic.max_slices is None else elastic.max_slices


def usable_slices(spec: TrainingRunSpec) -> tuple[int, ...]:
    """The numbers of slices on which the run may train, in rising order. A run that is not elastic has one."""
    elastic = spec.recovery.elastic
    if elastic is None:
        return (spec.accelerator.slices,)
    allowed = range(elastic.min_slices, wanted_slices(spec) + 1)
    return tuple(slices for slices in allowed if microbatches_on(spec, slices) is not None)


def microbatches_on(spec: TrainingRunSpec, slices: int) -> int | None:
    """Microbatches of a step on a number of slices; None if the batch cannot be distributed evenly.

    The smallest number with which a device holds at most as many rows at a time as on `accelerator.slices`. For
    ``auto``, the smallest number at all.
    """
    topology = spec.accelerator.resolve()
    try:
        shards = slices * run_mesh(spec, topology).data_parallelism // topology.slices
    except InvalidMesh:
        return None
    if any(size % shards for size in spec.trainer.batch_sizes):
        return None
    fewest = 1 if spec.trainer.microbatches == "auto" else -(-spec.trainer.microbatches * topology.slices // slices)
    return next((parts for parts in possible_microbatches(spec.trainer, shards) if fewest <= parts), None)


def possible_microbatches(trainer: TrainerSpec, shards: int) -> tuple[int, ...]:
    """The numbers of microbatches that cut every batch of a run evenly, once padding has filled the shards, in rising
    order.

    Args:
        trainer: The batches.
        shards: Shards of a batch over the devices.
    """
    rows = math.gcd(*(-(-size // shards) for size in trainer.batch_sizes))
    low = [divisor for divisor in range(1, math.isqrt(rows) + 1) if rows % divisor == 0]
    return tuple(parts for parts in sorted({*low, *(rows // divisor for divisor in low)}) if parts <= MAX_MICROBATCHES)


def on_slices(spec: TrainingRunSpec, slices: int) -> TrainingRunSpec:
    """The spec of the same run on another number of slices, one of `usable_slices`.

    It is not elastic: an attempt has one size.
    """
    microbatches = microbatches_on(spec, slices)
    if slices == spec.accelerator.slices or microbatches is None:
        return spec
    return spec.but(
        accelerator=spec.accelerator.but(slices=slices),
        trainer=spec.trainer.but(microbatches="auto" if spec.trainer.microbatches == "auto" else microbatches),
        recovery=spec.recovery.but(elastic=None),
    )
