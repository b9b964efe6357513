"""The step of a document, compiled for the hardware that the document names."""

from __future__ import annotations

from jax.sharding import Mesh

from halcyon.commands.programs.devices import described, devices_of
from halcyon.commands.programs.rates import rates_of
from halcyon.parallel.mesh import build_mesh
from halcyon.run.fitting import planned
from halcyon.step.device_use import Plan
from halcyon_api.mesh import document_vocabulary, run_mesh
from halcyon_api.training_run import TrainingRunSpec


def described_mesh(spec: TrainingRunSpec) -> Mesh:
    """The mesh of a run over devices that are described to the compiler. For one accelerator type in a process.

    Raises:
        NoCompiler: See `halcyon.commands.programs.devices.devices_of`.
    """
    mesh = run_mesh(spec)
    return build_mesh(mesh, devices_of(spec.accelerator, mesh.replica))


def plan_for_hardware(spec: TrainingRunSpec) -> Plan:
    """The plan of a run, by a step that is compiled for its own hardware.

    Raises:
        NoCompiler: There is no compiler for the hardware here.
        BadConfiguration: No step fits into the memory, or the devices cannot compute the document.
    """
    mesh = described_mesh(spec)
    rates = rates_of(spec.accelerator, mesh.shape["replica"])
    with described(mesh.devices.flat[0]):
        return planned(spec, document_vocabulary(spec.tokenizer), mesh, spec.accelerator.row.memory_bytes, rates)
