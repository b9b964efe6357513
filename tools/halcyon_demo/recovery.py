"""Where the seconds between a fault and the next step went. Pure.

Some boundaries are observed from outside (last log line of the old processes, first sight of the new pods), others come
from inside (the times that the first process of the new process group measured of its own start). They fit together
because the node and the demo share a clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from halcyon_demo.records import Fault, LogLine, Pod, ProcessGroup

PARTS = ("detect", "recreate", "start", "imports", "join", "restore", "compile")
MEANINGS = {
    "detect": "noticed, old processes exit",
    "recreate": "pods are replaced",
    "start": "kubelet, container, supervisor",
    "imports": "interpreter and imports",
    "join": "processes connect",
    "restore": "data opened, checkpoint read",
    "compile": "compilation, first step",
}


@dataclass(frozen=True)
class Recovery:
    """A fault and the recovery from it.

    Attributes:
        fault: The fault.
        group: The process group that continued the run.
        resumed_step: Steps done in the state from which it continued.
        lost_steps: Steps done after that state, which were lost.
        source: Where that state was, `memory` (of the pods) or `checkpoint`.
        seconds: Duration of each of `PARTS`; their sum is the time from the fault to the end of the next step.
    """

    fault: Fault
    group: ProcessGroup
    resumed_step: int
    lost_steps: int
    source: str
    seconds: dict[str, float]

    @property
    def total_seconds(self) -> float:
        """Seconds from the fault to the end of the next step."""
        return sum(self.seconds.values())


def recovery(fault: Fault, lines: Sequence[LogLine], pods: Sequence[Pod]) -> Recovery | None:
    """Return the recovery from a fault, or None while the run has not done another step.

    Args:
        fault: The fault.
        lines: The log lines of this run only.
        pods: The pods of this run.
    """
    before = [line for line in lines if line.event == "step" and line.time <= fault.time]
    if not before:
        return None
    old = max(line.group for line in before)
    compiled = next((line for line in lines if line.event == "compiled" and line.group > old), None)
    if compiled is None:
        return None
    in_place = compiled.group[:2] == old[:2]
    new_pods = [pod.seen_at for pod in pods if pod.group == compiled.group[:2] and pod.seen_at >= fault.time]
    if not new_pods and not in_place:
        return None
    inside = {part: float(compiled.fields[f"{part}Seconds"]) for part in ("imports", "join", "restore", "compile")}
    inside["restore"] += float(compiled.fields.get("dataSeconds", 0.0))
    process_start = compiled.time - sum(inside.values())
    last_line_time = max(
        (
            line.time
            for line in lines
            if line.group == old and line.time <= min(new_pods, default=process_start) and line.event != "start"
        ),
        default=fault.time,
    )
    ended = max(last_line_time, fault.time)
    appeared = min(new_pods, default=ended)
    resumed = compiled.step - 1
    done = max(line.step for line in lines if line.event == "step" and line.group == old)
    outside = {"detect": ended - fault.time, "recreate": appeared - ended, "start": process_start - appeared}
    from_memory = any("ownFiles" in line.fields for line in lines if line.group == compiled.group)
    source = "memory" if from_memory else "checkpoint"
    return Recovery(fault, compiled.group, resumed, max(0, done - resumed), source, outside | inside)
