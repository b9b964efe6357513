"""Replays of a run in the cluster (task ``replay``): their documents, and which steps they have proved. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from halcyon_api.names import LABEL_REPLAY_OF, MAX_RUN_NAME_LENGTH
from halcyon_api.replays import replay_document

Piece = tuple[int, int]
"""Steps done before and after the steps of a replay."""


def pieces(steps: Iterable[int], first: int | None, to: int | None) -> list[Piece]:
    """The pieces of a history between checkpoints.

    Args:
        steps: Steps of the checkpoints.
        first: Where the first piece begins. None: at the oldest checkpoint.
        to: Where the last one ends. None: at the newest checkpoint.
    """
    within = sorted({step for step in steps if (first or 0) <= step and (to is None or step <= to)})
    return list(pairwise(within))


def replay_of(
    document: Mapping[str, Any], piece: tuple[int, int | None], queue: str | None, priority: str | None
) -> dict[str, Any]:
    """The TrainingRun that computes a piece of a run again.

    Args:
        document: The document of the run, with its checkpoint root.
        piece: The steps. None as the last one: up to the next checkpoint.
        queue: LocalQueue in which it waits. None: as the run.
        priority: PriorityClass of its pods. None: as the run.
    """
    first, to = piece
    name, spec = document["metadata"]["name"], document["spec"]
    root = spec["checkpoint"]["root"].rstrip("/")
    cache = None if spec.get("data", {}).get("cache", {}).get("root") else f"{root}/data"
    ending = f"-replay-{first}" if to is None else f"-replay-{first}-{to}"
    own = f"{name[: MAX_RUN_NAME_LENGTH - len(ending)].rstrip('-')}{ending}"
    made = replay_document(document, first, to, name=own, root=f"{root}{ending}", cache=cache)
    made["metadata"]["labels"] = {LABEL_REPLAY_OF: name}
    scheduling = dict(spec.get("scheduling", {}))
    if queue is not None:
        scheduling["queue"] = {"name": queue}
    if priority is not None:
        scheduling["priorityClassName"] = priority
    made["spec"]["scheduling"] = scheduling
    return made


def proved(replays: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """The steps that succeeded replays have proved, as few pieces as possible, in rising order."""
    found: list[Piece] = []
    for first, last in sorted(_piece(one) for one in replays if one.get("status", {}).get("phase") == "Succeeded"):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], last))
        elif first < last:
            found.append((first, last))
    return found


def row(replay: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """A replay in a table: name, steps, phase and message."""
    origin, status = replay["spec"]["from"], replay.get("status", {})
    ready = next((one for one in status.get("conditions", ()) if one["type"] == "Ready"), {})
    last = origin.get("toStep") or status.get("progress", {}).get("step", "")
    return (
        replay["metadata"]["name"], f"{origin['step'] + 1} to {last}", status.get("phase", ""), ready.get("message", "")
    )  # fmt: skip


def _piece(replay: Mapping[str, Any]) -> Piece:
    """The steps that a replay has reported, up to its last one; none without a report."""
    origin = replay["spec"]["from"]
    done = replay["status"].get("progress", {}).get("step", origin["step"])
    return origin["step"], min(done, origin.get("toStep") or done)
