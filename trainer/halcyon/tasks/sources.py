"""Reports what a user should know about the sources of a run."""

from __future__ import annotations

from collections.abc import Mapping

from halcyon.data.cache.ledger import Ledger
from halcyon.data.source_notes import source_notes, source_warnings
from halcyon.telemetry import RunReporter
from halcyon_api.spec.data import DataSpec


def report_sources(reporter: RunReporter, data: DataSpec, ledgers: Mapping[str, Ledger]) -> None:
    """Log the forms of the sources of conversations, and a warning about each source of text whose files have rows."""
    reporter.reads(source_notes(ledgers))
    for warning in source_warnings(data, ledgers):
        reporter.warning(warning)
