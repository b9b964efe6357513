"""Reads the document of a command, so that every command reports the same problems in the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halcyon.commands.options import Defaults, Document, Overrides

if TYPE_CHECKING:
    from halcyon_api.training_run import TrainingRun


def valid_training(document: Document, defaults: Defaults, overrides: Overrides = None) -> TrainingRun:
    """A run of task train, with its defaults and changes.

    Raises:
        BadConfiguration: The run is not valid, or has another task.
    """
    from halcyon.errors import BadConfiguration
    from halcyon.weights.model_file import read_model
    from halcyon_api.defaults.files import load_resolved
    from halcyon_api.training_run import InvalidRun
    from halcyon_api.validation import find_problems

    try:
        run = load_resolved(document, defaults or (), read_model=read_model, overrides=overrides or ())
    except InvalidRun as error:
        raise BadConfiguration(str(error)) from None
    if problems := find_problems(run.spec):
        raise BadConfiguration("; ".join(map(str, problems)))
    if run.spec.task != "train":
        raise BadConfiguration(
            f"spec.task: a run of task {run.spec.task} has no training step; only task train has a plan and schedules"
        )
    return run
