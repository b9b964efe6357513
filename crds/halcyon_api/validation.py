"""Combinations that no schema can judge, judged before anything is allocated.

One pure function serves the operator's condition, ``halcyon validate`` and the trainer's own start, so that all three say the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from halcyon_api.spec.accelerator import Topology
from halcyon_api.spec.mesh import InvalidMesh, ResolvedMesh, resolve_mesh
from halcyon_api.spec.tokenizer import VOCABULARY_MULTIPLE
from halcyon_api.training_run import TrainingRunSpec


@dataclass(frozen=True)
class Problem:
    """One fault of a run document: its field and one sentence that names the mend."""

    field: str
    message: str

    def __str__(self) -> str:
        return self.message if self.message.startswith(self.field) else f"{self.field}: {self.message}"


def find_problems(spec: TrainingRunSpec, topology: Topology | None = None) -> tuple[Problem, ...]:
    """All faults of a run on its own topology, or on another one."""
    topology = topology or spec.accelerator.resolve()
    try:
        mesh = resolve_mesh(spec.mesh, topology)
    except InvalidMesh as error:
        field, _, message = str(error).partition(": ")
        return (Problem(field, message),)
    return (*_batch_problems(spec, mesh), *_tensor_problems(spec, mesh))


def _batch_problems(spec: TrainingRunSpec, mesh: ResolvedMesh) -> tuple[Problem, ...]:
    unit = mesh.data_parallelism * spec.trainer.microbatches
    if spec.trainer.batch_size % unit == 0:
        return ()
    return (
        Problem(
            "spec.trainer.batchSize",
            f"{spec.trainer.batch_size} must be a multiple of the data parallelism times microbatches, {mesh.data_parallelism} x "
            f"{spec.trainer.microbatches}; the next one is {-(-spec.trainer.batch_size // unit) * unit}",
        ),
    )


def _tensor_problems(spec: TrainingRunSpec, mesh: ResolvedMesh) -> tuple[Problem, ...]:
    """Whatever the tensor axis or the fsdp axis splits must divide by it."""
    problems: list[Problem] = []
    if spec.model.llama is not None:
        llama = spec.model.llama
        kind, hidden = "llama", llama.hidden_size
        split = {"kvHeads": llama.key_value_heads, "intermediateSize": llama.intermediate_size}
    elif spec.model.gpt2 is not None:
        gpt2 = spec.model.gpt2
        kind, hidden = "gpt2", gpt2.hidden_size
        split = {"heads": gpt2.heads, "intermediateSize": gpt2.mlp_size}
    else:
        raise TypeError(f"no divisibility rules for a model of kind {spec.model.kind}")
    for name, size in split.items():
        if size % mesh.tensor:
            problems.append(
                Problem(
                    f"spec.model.{kind}.{name}",
                    f"{size} must be a multiple of the tensor axis of the mesh, {mesh.tensor}",
                )
            )
    if VOCABULARY_MULTIPLE % mesh.tensor:
        problems.append(
            Problem("spec.mesh.ici.tensor", f"{mesh.tensor} must divide {VOCABULARY_MULTIPLE}, for the vocabulary is split over it")
        )
    if hidden % mesh.fsdp:
        problems.append(
            Problem(
                f"spec.model.{kind}.hiddenSize",
                f"{hidden} must be a multiple of the fsdp axis of the mesh, {mesh.fsdp}",
            )
        )
    return tuple(problems)
