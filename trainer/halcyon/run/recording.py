"""The history of a training: begun when its root is taken, fed by its reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from halcyon.checkpoint import Checkpointer
from halcyon.run.context import Context
from halcyon.run.place import Place
from halcyon.telemetry.history.segments import ProcessGroupId
from halcyon.telemetry.history.writer import HistoryWriter
from halcyon_api.status.goodput import CAUSES


def begin_history(place: Place, checkpointer: Checkpointer, step: int) -> None:
    """Record the run from here on, beside its checkpoints. Only for process 0, which has the root.

    Args:
        place: The run, whose reports are recorded.
        checkpointer: The root that was taken.
        step: Steps done.
    """
    context, reporter = place.context, place.reporter
    group = ProcessGroupId(
        number=0,  # the writer finds it in the root
        attempt=checkpointer.epoch.attempt,
        restart=checkpointer.epoch.restart,
        writer=checkpointer.writer,
        resumed_step=step,
        began=round(reporter.observe().began_time, 3),
        run=context.owner.name,
        steps=context.run.spec.trainer.steps,
    )

    def account() -> dict[str, Any]:
        state = reporter.observe()
        seconds = state.seconds
        return {"step": max(step, state.step), "seconds": {cause: getattr(seconds, cause) for cause in CAUSES}}

    reporter.listen(HistoryWriter(context.run.spec.checkpoint, group, account=account, on_warning=reporter.warning))


def placed_fields(context: Context, devices: Sequence[Any]) -> dict[str, Any]:
    """What the process group trains on, and where its run comes from: the fields of the event ``placed``.

    Args:
        context: The run.
        devices: All devices of the run.
    """
    spec, accelerator = context.run.spec, context.run.spec.accelerator
    on_processors = devices[0].platform == "cpu"  # its devices are pretended, so its chips are its hosts
    chips = context.process_count if on_processors else len(devices) // accelerator.row.devices_per_chip
    origin = spec.origin
    return {
        "accelerator": accelerator.type,
        "topology": accelerator.topology,
        "slices": context.topology.slices,
        "provisioning": accelerator.provisioning,
        "device_kind": devices[0].device_kind,
        "devices": len(devices),
        "chips": max(1, chips),
        "price_per_chip_hour": accelerator.price_per_chip_hour,
        "from_run": origin.run if origin is not None else None,
        "from_root": None
        if origin is None
        else origin.root
        if origin.hugging_face is None
        else origin.hugging_face.path,
        "from_step": origin.step if origin is not None else None,
        "after_run": spec.after.run if spec.after is not None else None,
    }
