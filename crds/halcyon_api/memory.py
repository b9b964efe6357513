"""Whether a run fits into memory: the least that its devices and hosts need. The operator, ``halcyon validate`` and the
trainer ask here.

The need is a lower bound, so no run is rejected that would fit. It counts the parameters, and for training their
gradients, the moments of the update rule that needs fewest, the average and the models that the objective keeps beside
the trained one. The devices that shard these share them. Moments and average count for the host if ``trainer.offload``
keeps them in its memory. Of the activations the need counts one residual stream for each block and the batch itself,
which recomputation cannot avoid. Matrices inside a block, the loss and the compiler's copies need additional memory.
"""

import math
from dataclasses import dataclass

from halcyon_api.counting import size
from halcyon_api.elastic import possible_microbatches
from halcyon_api.hardware.kinds import GIB
from halcyon_api.hardware.machines import left_of_host_gib
from halcyon_api.mesh import WIDTHS, average_bytes, model_shape, parameter_bytes, reference_bytes, teacher_bytes
from halcyon_api.spec.mesh import ResolvedMesh
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE
from halcyon_api.spec.trainer import Remat
from halcyon_api.training_run import TrainingRunSpec

_BATCH_BYTES_PER_TOKEN = 8
"""Token ids and targets, 32 bits each."""


@dataclass(frozen=True)
class MemoryNeed:
    """Lower bound of the memory that one device needs."""

    state_bytes: int
    batch_bytes: int

    @property
    def total_bytes(self) -> int:
        """State and batch."""
        return self.state_bytes + self.batch_bytes


def least_need(spec: TrainingRunSpec, mesh: ResolvedMesh) -> MemoryNeed:
    """Lower bound of the memory that a device of a run needs.

    A tokenizer whose size the document does not have counts as the smallest.
    """
    if spec.task == "data":
        return MemoryNeed(0, 0)
    trainer, model = spec.trainer, model_shape(spec, unknown_vocabulary=VOCABULARY_MULTIPLE)
    away = 0 if trainer.offload == "none" else _offloaded(spec)
    state = int((_state_bytes(spec) - away) * model.parameters) // mesh.parameter_shards
    # Residual streams of whole sequences that a device keeps at least, for blocks that are computed in order.
    kept: dict[Remat, int] = {"nested": math.isqrt(4 * model.blocks), "offload": 1}
    residuals = kept.get(trainer.remat, model.blocks) if spec.has_steps else 1
    sizes = [(trainer.batch_size, trainer.sequence_length)]
    sizes += [
        (entry.batch_size or trainer.batch_size, entry.sequence_length or trainer.sequence_length)
        for entry in trainer.batch_schedule
    ]
    most = trainer.microbatches
    most = possible_microbatches(trainer, mesh.data_parallelism)[-1] if most == "auto" else most
    tokens = max(batch * length for batch, length in sizes) // (mesh.data_parallelism * mesh.context * most)
    width = model.width * WIDTHS[trainer.precision.compute] // mesh.tensor
    return MemoryNeed(state, tokens * (residuals * width + _BATCH_BYTES_PER_TOKEN))


def offloaded_bytes(spec: TrainingRunSpec, mesh: ResolvedMesh) -> int:
    """Bytes of the optimizer state and the average that each device keeps in its host's memory, at least.

    With ``offload: auto`` they count too: the trainer decides only when it has compiled the step.
    """
    if not spec.has_steps or spec.trainer.offload == "none":
        return 0
    parameters = model_shape(spec, unknown_vocabulary=VOCABULARY_MULTIPLE).parameters
    return _offloaded(spec) * parameters // mesh.parameter_shards


def host_memory_problem(spec: TrainingRunSpec, mesh: ResolvedMesh) -> tuple[str, str] | None:
    """Why the memory of a host is too small for ``offload: optimizer``: the field and one sentence.

    None if it may fit, or is not known.
    """
    shape = spec.accelerator.row.shape(spec.accelerator.topology)
    if shape is None or shape.machine_size is None or spec.trainer.offload != "optimizer":
        return None
    needed, there = offloaded_bytes(spec, mesh) * shape.devices_per_host, left_of_host_gib(shape.machine_size[0]) * GIB
    if needed <= there:
        return None
    return "spec.trainer.offload", (
        f"the optimizer state takes {size(needed)} at least of a host, and a pod has {size(there)} of "
        f"{shape.machine_type}; choose none, a topology with more hosts, or narrower moments in precision.moments"
    )


def memory_problem(
    spec: TrainingRunSpec, mesh: ResolvedMesh, available_bytes: int, *, devices: int, where: str
) -> tuple[str, str] | None:
    """Why a run cannot fit into memory: the field and one sentence with the fix. None if it may fit.

    Args:
        spec: The run's spec.
        mesh: Its mesh.
        available_bytes: Size of the memory that ``devices`` share.
        devices: Number of devices of the mesh that share the memory: 1 on an accelerator, all devices of the process on
            CPU.
        where: Name of the device or machine with the memory, for the sentence.
    """
    need = least_need(spec, mesh)
    needed = need.total_bytes * devices
    if needed <= available_bytes:
        return None
    missing = size(needed - available_bytes)
    amounts = f"{size(needed)} at least, and {where} has {size(available_bytes)}: {missing} are missing"
    if need.state_bytes >= need.batch_bytes:
        what = "parameters, gradients and optimizer state" if spec.has_steps else "parameters"
        shared = mesh.parameter_shards == mesh.devices_per_slice
        fix = "a topology with more memory" if shared else "a larger fsdp axis of the mesh"
        return "spec.model", f"{what} take {amounts}; choose a smaller model, or {fix}"
    fix = "give a smaller batchSize, or more microbatches" if spec.has_steps else "give a smaller batchSize"
    return "spec.trainer.batchSize", f"a batch takes {amounts}; {fix}"


def _state_bytes(spec: TrainingRunSpec) -> float:
    """Least bytes of the state for each parameter."""
    stored = parameter_bytes(spec, VOCABULARY_MULTIPLE)
    if spec.task in ("evaluate", "sample"):
        return stored
    always = stored + average_bytes(spec) + teacher_bytes(spec, VOCABULARY_MULTIPLE)
    return always if _has_frozen(spec) else always + stored + _moments(spec) + reference_bytes(spec)


def _has_frozen(spec: TrainingRunSpec) -> bool:
    """Whether parameters are frozen, so that they have themselves alone. An adapter beside them is small."""
    return spec.adapter is not None or any(group.frozen for group in spec.optimizer.groups or ())


def _moments(spec: TrainingRunSpec) -> int:
    """Least bytes of moments for each trained parameter."""
    return spec.optimizer.least_moments * WIDTHS[spec.trainer.precision.moments]


def _offloaded(spec: TrainingRunSpec) -> int:
    """Least bytes for each parameter that ``offload: optimizer`` keeps in the host's memory."""
    return average_bytes(spec) + (0 if _has_frozen(spec) else _moments(spec))
