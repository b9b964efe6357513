"""Reports what a user should know about the sources of a run."""

from __future__ import annotations

from halcyon.data.cache.ensure import Caches
from halcyon.data.source_notes import source_notes, source_warnings
from halcyon.telemetry import RunReporter
from halcyon_api.spec.data import DataSpec


def report_sources(reporter: RunReporter, data: DataSpec, caches: Caches) -> None:
    """Log what `halcyon.data.source_notes` finds."""
    reporter.reads(source_notes(caches))
    for warning in source_warnings(data, caches):
        reporter.warning(warning)
