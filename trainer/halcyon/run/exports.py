"""The exports of a training: opened at its start, reported while it trains, complete at its end.

See `halcyon.weights.background`.
"""

from __future__ import annotations

from halcyon.checkpoint import Checkpointer
from halcyon.errors import BadConfiguration
from halcyon.parallel.preemption import PreemptionNotice, wait_together
from halcyon.run.companion import Companion
from halcyon.run.context import Context
from halcyon.run.place import Place
from halcyon.telemetry.termination import clip
from halcyon.weights.background import open_exports
from halcyon_api.spec.export import ExportSpec


def check_exportable(context: Context) -> None:
    """Check that the model has a form of Hugging Face, before any device is used.

    Raises:
        BadConfiguration: It has none.
    """
    if context.spec.export is not None:
        from halcyon.models.families.lookup import form_of_section

        try:
            form_of_section(context.spec.model.section)
        except BadConfiguration as error:
            raise BadConfiguration(
                f"spec.export: {error}; remove spec.export, or choose a family of models that has one"
            ) from None


class Exports(Companion):
    """The exports of a run. Creating it is a collective: it begins with those that earlier processes did not complete.

    Args:
        spec: ``spec.export``.
        place: The run.
        checkpointer: Its checkpoints. It makes one of each step that is exported.
        notice: This process's notice of preemption.
    """

    def __init__(self, spec: ExportSpec, place: Place, checkpointer: Checkpointer, notice: PreemptionNotice) -> None:
        reporter = place.reporter

        self._processes, self._notice = place.processes, notice
        self._exporter = open_exports(
            spec,
            place.spec.checkpoint,
            steps=place.spec.trainer.steps,
            owner=place.context.owner,
            committed=checkpointer.committed,
            processes=place.processes,
            on_complete=lambda step, path, size, seconds: reporter.event(
                "exported", step=step, path=path, size_bytes=size, seconds=seconds
            ),
            on_failure=lambda step, reason: reporter.event("exportFailed", step=step, reason=clip(reason)),
        )
        reporter.knows(exported_step=self._exporter.newest_step)
        checkpointer.add_reader(self._exporter, wants=self._exporter.is_due)
        self._exporter.begin(checkpointer.committed)

    def leave(self) -> None:
        """See `Companion`. The next process group goes on with the exports."""
        self._exporter.abandon()

    def finish(self) -> bool:
        """Wait until all exports are complete. A collective.

        Raises:
            ExportFailed: An export is not complete.
        """
        if not wait_together(self._processes, self._notice, self._exporter.shares_written):
            return False
        self._exporter.finish()
        return True

    def close(self) -> None:
        """See `Companion`."""
        self._exporter.close()
