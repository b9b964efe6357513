"""The communication between processes that the checkpoint engine needs, on the main thread and between steps.

`halcyon.parallel` implements it. Saving does not use it: the background threads communicate only through the root.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from halcyon.errors import (
    BadConfiguration,
    Fenced,
    NoValidCheckpoint,
    Preempted,
    RootTaken,
    RootUnusable,
    RunChanged,
    TrainerExit,
)
from halcyon.storage.failures import StoreFailure, as_exit

_KINDS: tuple[type[TrainerExit], ...] = (
    BadConfiguration, Fenced, RootTaken, RootUnusable, RunChanged, NoValidCheckpoint, Preempted, TrainerExit,
)  # fmt: skip
_TEXT_BYTES = 1024


class Processes(Protocol):
    """The processes of a run."""

    @property
    def process_index(self) -> int:
        """Index of this process."""
        ...

    @property
    def process_count(self) -> int:
        """Number of processes."""
        ...

    def agree(self, document: dict[str, Any] | None) -> dict[str, Any]:
        """Process 0's document, on every process."""
        ...

    def barrier(self, name: str) -> None:
        """Wait until all processes are at the barrier."""
        ...


def gather_texts(processes: Processes, text: str) -> list[str]:
    """Each process's short text (cut to 1 KiB), in the order of the processes, on every process."""
    if processes.process_count == 1:
        return [text]
    from jax.experimental import multihost_utils

    row = np.zeros(_TEXT_BYTES, np.uint8)
    data = text.encode()[:_TEXT_BYTES]
    row[: len(data)] = np.frombuffer(data, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(row)).reshape(processes.process_count, _TEXT_BYTES)
    return [bytes(one).rstrip(b"\0").decode(errors="ignore") for one in rows]


def decide(processes: Processes, root: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run `work` on process 0; all processes return its result or raise its error. A collective.

    Args:
        processes: The processes.
        root: Address of the root, for error messages.
        work: Runs on process 0 only; returns the document for all processes.

    Raises:
        TrainerExit: `work` failed.
    """
    verdict: dict[str, Any] | None = None
    failure: BaseException | None = None
    if processes.process_index == 0:
        try:
            verdict = {"result": work()}
        except TrainerExit as error:
            verdict = _as_verdict(error)
        except StoreFailure as error:
            verdict = _as_verdict(as_exit(error, root))
        except Exception as error:
            failure = error
            verdict = _as_verdict(
                TrainerExit(f"process 0 failed at checkpoint root {root}: {type(error).__name__}: {error}")
            )
    verdict = processes.agree(verdict)
    if failure is not None:
        raise failure
    if "error" in verdict:
        kind = next(kind for kind in _KINDS if kind.__name__ == verdict["error"])
        raise Fenced(verdict["message"], verdict["ownerAttempt"]) if kind is Fenced else kind(verdict["message"])
    return verdict["result"]


def _as_verdict(error: TrainerExit) -> dict[str, Any]:
    kind = next(kind for kind in _KINDS if isinstance(error, kind))
    return {
        "error": kind.__name__,
        "message": str(error),
        "ownerAttempt": error.owner_attempt if isinstance(error, Fenced) else 0,
    }
