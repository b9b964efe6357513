"""The exports of a training: opened at its start, reported while it trains, complete at its end.

See `halcyon.weights.background`.
"""

from halcyon.host.errors import BadConfiguration
from halcyon.models.families.lookup import published_of_section
from halcyon.parallel.preemption import wait_together
from halcyon.run.callback import Callback
from halcyon.run.setup import Setup
from halcyon.telemetry.termination import clip
from halcyon.weights.background import open_exports
from halcyon_api.spec.export import ExportSpec
from halcyon_api.spec.families.section import ModelSection


def check_form(model: ModelSection) -> None:
    """Reject a model without a form of Hugging Face.

    Raises:
        BadConfiguration: It has none.
    """
    try:
        published_of_section(model)
    except BadConfiguration as error:
        raise BadConfiguration(
            f"spec.export: {error}; remove spec.export, or choose a family of models that has one"
        ) from None


class Exports(Callback):
    """The exports of a run. Creating it is a collective: it begins with those that earlier processes did not complete.

    Args:
        spec: ``spec.export``.
        setup: The training. It makes a checkpoint of each step that is exported.
    """

    def __init__(self, spec: ExportSpec, setup: Setup) -> None:
        place, checkpointer = setup.place, setup.checkpointer
        reporter = place.reporter

        self._processes, self._notice = place.processes, setup.notice
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
        """See `Callback`. The next process group goes on with the exports."""
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
        """See `Callback`."""
        self._exporter.close()
