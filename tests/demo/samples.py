"""Log lines and pods in the format of trainers and the API server."""

import json
from datetime import UTC, datetime
from typing import Any

from halcyon_demo.records import LogLine, Pod, parse_line

RUN = "stdlib-llama"


def line(
    event: str, time: float, group: tuple[int, ...] = (1, 0), *, process: int = 0, run: str = RUN, **fields: Any
) -> LogLine:
    stamp = datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds")
    common = {"event": event, "time": stamp, "run": run, "attempt": group[0], "restart": group[1], "process": process}
    common |= {"inPlace": group[2]} if group[2:] else {}
    parsed = parse_line(json.dumps(common | fields))
    assert parsed is not None
    return parsed


def steps(
    first: int, last: int, group: tuple[int, ...] = (1, 0), *, begin: float = 0.0, run: str = RUN
) -> list[LogLine]:
    """One step line a second. The loss depends only on the step."""
    return [
        line("step", begin + step - first, group, run=run, step=step, loss=5.0 / step)
        for step in range(first, last + 1)
    ]


def pod(group: tuple[int, int], seen_at: float, process: tuple[int, int] = (0, 0)) -> Pod:
    return Pod(f"pod-{group}-{process}", f"uid-{group}-{process}", RUN, group, process, seen_at)
