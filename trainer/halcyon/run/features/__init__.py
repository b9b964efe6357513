"""The optional features of a run, each a callback in a file of its own and a row of `FEATURES`.

A file is imported only if the document asks for its feature. The callback is made when the checkpoints are open, in the
order of the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from typing import Any

from halcyon.run.callback import Callback
from halcyon.run.setup import Setup


@dataclass(frozen=True)
class Feature:
    """One optional feature."""

    section: str
    """Path of its settings in the spec, in snake_case. It is made if they are set."""
    callback: str
    """``MODULE:CLASS`` below this package. The class is made from the settings and a `Setup`."""
    always: bool = False
    """Whether it is made without settings too."""


FEATURES = (
    Feature("telemetry.profile", "profiling:Profiler", always=True),
    Feature("recovery.audit", "audits:Audits"),
    Feature("export", "exports:Exports"),
    Feature("trainer.evaluation.tasks", "benchmarks:BenchmarkRuns"),
    Feature("telemetry.sample", "text_samples:TextSamples"),
)


def features_of(setup: Setup) -> Iterator[Callback]:
    """Make the optional features that a run has, in their order. A collective."""
    for feature in FEATURES:
        settings = attrgetter(feature.section)(setup.place.spec)
        if settings is not None or feature.always:
            yield found(feature.callback)(settings, setup)


def found(name: str) -> Any:
    """The class or function of a row."""
    module, _, own = name.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), own)
