"""The step of a document, compiled without its hardware, and what the estimate needs of the run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax

from halcyon.commands.planning.vocabulary import Vocabulary, vocabulary_of
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.attention import NARROW_KERNELS
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import has_slow_sums

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from halcyon.commands.planning.assumptions import Assumptions
    from halcyon.commands.planning.estimate import Run
    from halcyon.step.device_use import Plan
    from halcyon.step.hlo.work import Rates
    from halcyon.step.program import Program


@dataclass(frozen=True)
class Compiled:
    """The compiled step of a document.

    Attributes:
        plan: How it uses the devices.
        run: What the estimate needs of the run.
        rates: Speed of a device. None: not known.
        note: Why it is not compiled for its own hardware, and which weights have no codes; empty: it is, and none.
    """

    plan: Plan
    run: Run
    rates: Rates | None
    note: str


def compiled(spec: TrainingRunSpec, assumed: Assumptions, doing: Callable[[str], None] = lambda what: None) -> Compiled:
    """Compile the step of a run for the accelerators that it names, else for virtual devices of this processor.

    Args:
        spec: The run's spec.
        assumed: May give the speed of a device.
        doing: Called with what is compiled, before it is.

    Raises:
        BadConfiguration: No step fits into the memory, or the devices cannot compute the document.
    """
    from halcyon.commands.programs.devices import NoCompiler, plan_for_hardware
    from halcyon.models.adapters import base_note
    from halcyon.run.auto_tuning import planned
    from halcyon.step.speeds import rates_of

    slices = spec.accelerator.resolve().slices
    vocabulary = vocabulary_of(spec.tokenizer)
    rates, note, found = assumed.rates(rates_of(spec.accelerator, slices)), "", None
    if spec.accelerator.row.family != "cpu":
        try:
            found = plan_for_hardware(spec, vocabulary.tokens, rates, doing)
        except NoCompiler as error:
            instead = ""
            if spec.trainer.attention in NARROW_KERNELS:  # a kernel of an accelerator cannot be compiled here
                instead, spec = " with attention auto", spec.but(trainer=spec.trainer.but(attention="auto"))
            note = f"Compiled for a processor{instead}, so memory is an upper bound and times are rough: {error}."
    if found is None:
        mesh, memory_bytes = virtual_mesh(spec), spec.accelerator.row.memory_bytes
        found = planned(spec, vocabulary.tokens, mesh, memory_bytes, rates, doing)
    program, plan = found
    note = " ".join(filter(None, (note, base_note(program.template.model, spec.lora))))
    return Compiled(plan, run_of(spec, program, plan, vocabulary), rates, note)


def run_of(spec: TrainingRunSpec, program: Program, plan: Plan, vocabulary: Vocabulary) -> Run:
    """What the estimate needs of a run.

    Args:
        spec: The run's spec.
        program: Its program.
        plan: Its plan.
        vocabulary: Its vocabulary.
    """
    from halcyon.commands.planning.estimate import Run
    from halcyon.models.flops import model_flops

    template = program.template
    topology, policy = spec.accelerator.resolve(), spec.objective.policy
    saved = (template.model, template.optimizer_state, template.average, template.reference)
    shape = spec.accelerator.row.shape(spec.accelerator.topology)
    hosts = topology.slices * topology.hosts_per_slice
    return Run(
        tokens=spec.trainer.tokens,
        flops=model_flops(
            spec, template.model, vocabulary.tokens, length=plan.sequence_length, trained=program.trained
        ),
        vocabulary=vocabulary,
        compiled_for="a processor" if plan.platform == "cpu" else spec.accelerator.type,
        own_kernel=plan.platform == "cpu" and spec.accelerator.row.family != "cpu",
        state_bytes=sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in jax.tree.leaves(saved)),
        devices=program.mesh.size,
        chips=hosts * (topology.devices_per_host if shape is None else shape.chips_per_host),
        hosts=hosts,
        provisioning=spec.accelerator.provisioning,
        list_price=spec.accelerator.row.list_price,
        exact=has_slow_sums(spec),
        in_place=spec.recovery.in_place,
        memory=spec.checkpoint.memory,
        sampled=0 if policy is None or not policy.has_pool else policy.max_tokens * spec.trainer.batch_size,
    )


def virtual_mesh(spec: TrainingRunSpec) -> Mesh:
    """The mesh of a run over virtual devices of this machine's processor."""
    mesh = run_mesh(spec)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", mesh.devices)
    from halcyon.parallel.device_mesh import build_mesh

    return build_mesh(mesh)
