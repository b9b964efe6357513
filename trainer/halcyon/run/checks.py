"""The checks of a document before any device is used, in the order in which users see their problems.

The rules of the contract come first, then what the sections name on the machine of the run: files, classes, functions,
parameters. A module is imported only for a document that has its section, because the import of JAX takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from halcyon.host.documents import is_local, missing_files
from halcyon.host.errors import TrainerExit
from halcyon.host.memory import machine_memory
from halcyon_api.memory import memory_problem
from halcyon_api.mesh import run_mesh
from halcyon_api.spec.families.custom import CustomSpec
from halcyon_api.training_run import TrainingRunSpec
from halcyon_api.validation import Problem, find_problems

if TYPE_CHECKING:
    from halcyon.evals.benchmarks import Benchmark


def check_sections(spec: TrainingRunSpec, *, has_model: bool = True, has_files: bool = True) -> list[Benchmark]:
    """Check what the sections of a valid document name. The tasks of a run and `halcyon validate` have this one list.

    Args:
        spec: The spec of the run.
        has_model: Whether the document describes the model; if not, the library's user gives it.
        has_files: Whether this machine has the files and packages of the run.

    Returns:
        The benchmarks of ``spec.trainer.evaluation.tasks``, which are read once.

    Raises:
        BadConfiguration: The message begins with the field.
    """
    computes = has_files and spec.task != "data"
    if computes and has_model and isinstance(spec.model, CustomSpec):
        from halcyon.models.families.custom import custom_model

        custom_model(spec.model)
    if spec.lora is not None:
        from halcyon.models.adapters import check_adapter

        check_adapter(spec.model, spec.lora)
    if has_model and spec.optimizer.groups:
        from halcyon.optim.groups import check_groups

        check_groups(spec.model, spec.optimizer, spec.lora)
    if computes and spec.objective.policy is not None and spec.objective.policy.environment is None:
        from halcyon.run.policy.rewards import reward_named

        reward_named(spec.objective.policy.reward)
    if spec.export is not None:
        from halcyon.run.features.exports import check_form

        check_form(spec.model)
    if not has_files or (tasks := spec.trainer.evaluation.tasks) is None:
        return []
    from halcyon.evals.benchmarks import read_of_document

    return read_of_document(tasks)


def document_problems(spec: TrainingRunSpec, note: Callable[[str], object]) -> list[Problem]:
    """All problems of a document that this machine can find without a device.

    Args:
        spec: The spec of the run.
        note: Called with what a user should know of a conversation format, as a sentence.
    """
    if found := find_problems(spec):
        return list(found)
    problems = [*missing_files(spec), *_memory_problems(spec)]
    try:
        check_sections(spec, has_files=is_local(spec) and not problems)
        if not problems and any(source.format.conversation for source in spec.data.sources):
            from halcyon.weights.check_formats import check_formats

            check_formats(spec, note)
    except TrainerExit as error:
        problems.append(Problem.of(error))
    return problems


def _memory_problems(spec: TrainingRunSpec) -> list[Problem]:
    """The problem, if a run on this machine's processor does not fit into its memory; else nothing."""
    there = machine_memory()
    if not is_local(spec) or spec.accelerator.type != "cpu" or there is None:
        return []
    devices = spec.accelerator.resolve().devices
    problem = memory_problem(spec, run_mesh(spec), there, devices=devices, where="this machine")
    return [Problem(*problem)] if problem is not None else []
