"""The optional features of a run, each a callback in a file of its own and a row of `FEATURES`.

A file is imported only if the document asks for its feature. What its settings name is read and checked before any
device is used; the callback is made when the checkpoints are open, in the order of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any

from halcyon.run.callback import Callback
from halcyon.run.setup import Setup
from halcyon_api.training_run import TrainingRunSpec

Make = Callable[[Setup], Callback]
"""Makes the callback. A collective."""


@dataclass(frozen=True)
class Feature:
    """One optional feature."""

    section: str
    """Path of its settings in the spec, in snake_case. It is made if they are set."""
    callback: str
    """``MODULE:CLASS`` below this package. The class is made from the settings and a `Setup`."""
    read: str = ""
    """``MODULE:FUNCTION``: gives, from the settings and the spec, what the class gets in place of the settings."""
    always: bool = False
    """Whether it is made without settings too."""


FEATURES = (
    Feature("telemetry.profile", "profiling:Profiler", always=True),
    Feature("recovery.audit", "audits:Audits"),
    Feature("export", "exports:Exports", read="exports:checked"),
    Feature("trainer.evaluation.tasks", "benchmarks:BenchmarkRuns", read="benchmarks:benchmarks_of"),
    Feature("telemetry.sample", "text_samples:TextSamples"),
)


def features_of(spec: TrainingRunSpec) -> tuple[Make, ...]:
    """What makes the optional features of a run.

    Raises:
        BadConfiguration: The settings of one name what cannot be used.
    """
    return tuple(_features_of(spec))


def _features_of(spec: TrainingRunSpec) -> Iterator[Make]:
    for feature in FEATURES:
        settings = attrgetter(feature.section)(spec)
        if settings is None and not feature.always:
            continue
        if feature.read:
            settings = found(feature.read)(settings, spec)
        yield lambda setup, feature=feature, settings=settings: found(feature.callback)(settings, setup)


def found(name: str) -> Any:
    """The class or function of a row."""
    module, _, own = name.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), own)
