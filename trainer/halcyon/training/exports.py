"""The exports of a training: opened at its start, reported while it trains, complete at its end. See `halcyon.huggingface.background`."""

from __future__ import annotations

from halcyon.checkpoint import Checkpointer
from halcyon.context import Context
from halcyon.errors import BadConfiguration
from halcyon.huggingface.background import ExportCallbacks, Exporter, open_exports
from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.process_group import ProcessGroup
from halcyon.parallel.waiting import wait_together
from halcyon.telemetry import RunReporter


def check_exportable(context: Context) -> None:
    """Check that the model has a form of Hugging Face, before any device is used.

    Raises:
        BadConfiguration: It has none.
    """
    if context.run.spec.export is not None:
        from halcyon.models.weights import family_of_section

        try:
            family_of_section(context.run.spec.model.section)
        except BadConfiguration as error:
            raise BadConfiguration(f"spec.export: {error}; remove spec.export, or choose a family of models that has one") from None


def begin_exports(context: Context, processes: ProcessGroup, checkpointer: Checkpointer, reporter: RunReporter) -> Exporter | None:
    """Begin with the exports that earlier processes did not complete. A collective. None: the run has no ``spec.export``."""
    spec = context.run.spec
    if spec.export is None:
        return None
    exporter = open_exports(
        spec.export,
        spec.checkpoint,
        steps=spec.trainer.steps,
        owner=context.owner,
        committed=checkpointer.committed,
        processes=processes,
        callbacks=ExportCallbacks(
            on_complete=lambda step, path, size, seconds: reporter.exported(step, path, size_bytes=size, seconds=seconds),
            on_failure=reporter.export_failed,
        ),
    )
    reporter.knows(exported_step=exporter.newest_step)
    checkpointer.add_reader(exporter)
    exporter.begin(checkpointer.committed)
    return exporter


def complete_exports(exporter: Exporter, processes: ProcessGroup, notice: PreemptionNotice) -> bool:
    """Wait, after the last step, until all exports are complete. A collective. False: a notice came first.

    Raises:
        ExportFailed: An export is not complete.
    """
    if not wait_together(processes, notice, exporter.shares_written):
        return False
    exporter.finish()
    return True
