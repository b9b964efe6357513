"""Where the seconds between a fault and the next step went. Pure.

The boundaries are seen from outside (when the old processes wrote their last line, when the new pods appeared) and from inside (what the
first process of the new world measured of its own start). They meet, because node and watcher share a clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from halcyon_demo.records import Fault, LogLine, Pod, World

PARTS = ("detect", "recreate", "start", "imports", "join", "restore", "compile")
MEANINGS = {
    "detect": "old processes save and leave",
    "recreate": "JobSet replaces all Jobs and pods",
    "start": "scheduler, kubelet, container",
    "imports": "interpreter and imports",
    "join": "processes find one another",
    "restore": "data opened, checkpoint read",
    "compile": "compilation, first step",
}


@dataclass(frozen=True)
class Recovery:
    """One fault and what followed.

    Attributes:
        fault: What was done.
        world: The world that went on.
        resumed_step: Steps done in the checkpoint that it took up.
        lost_steps: Steps that had been done beyond it.
        seconds: For each of `PARTS`, how long it took; their sum is fault to next step.
    """

    fault: Fault
    world: World
    resumed_step: int
    lost_steps: int
    seconds: dict[str, float]

    @property
    def total_seconds(self) -> float:
        """Fault to the end of the next step."""
        return sum(self.seconds.values())


def recovery(fault: Fault, lines: Sequence[LogLine], pods: Sequence[Pod]) -> Recovery | None:
    """Return what followed on a fault, or None while the run has not stepped again.

    Args:
        fault: What was done.
        lines: The log of this run alone.
        pods: Its pods.
    """
    before = [line for line in lines if line.event == "step" and line.time <= fault.time]
    if not before:
        return None
    old = max(line.world for line in before)
    compiled = next((line for line in lines if line.event == "compiled" and line.world > old), None)
    new_pods = [pod.seen_at for pod in pods if compiled is not None and pod.world == compiled.world]
    if compiled is None or not new_pods:
        return None
    inside = {part: float(compiled.fields[f"{part}Seconds"]) for part in ("imports", "join", "restore", "compile")}
    inside["restore"] += float(compiled.fields.get("dataSeconds", 0.0))
    appeared = min(new_pods)
    last_words = max((line.time for line in lines if line.world == old and line.time <= appeared), default=fault.time)
    ended = max(last_words, fault.time)
    process_start = compiled.time - sum(inside.values())
    resumed = compiled.step - 1
    done = max(line.step for line in lines if line.event == "step" and line.world == old)
    outside = {"detect": ended - fault.time, "recreate": appeared - ended, "start": process_start - appeared}
    return Recovery(fault, compiled.world, resumed, max(0, done - resumed), outside | inside)
