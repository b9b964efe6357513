"""The communication between processes that the checkpoint engine needs, on the main thread and between steps.

`halcyon.parallel` implements it. Saving does not use it: the background threads communicate only through the root.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from halcyon.checkpoint.verify import Damaged, OtherState
from halcyon.host import errors
from halcyon.host.storage.failures import StoreFailure, as_exit
from halcyon_api.edits.branch import BRANCH

_TEXT_BYTES = 1024
_FIX = f"; set the configuration back to go on, or {BRANCH}"


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


def gather_texts(processes: Processes, text: str) -> list[str]:
    """Each process's short text (cut to 1 KiB), in the order of the processes, on every process."""
    if processes.process_count == 1:
        return [text]
    rows = _gathered(text.encode()[:_TEXT_BYTES], _TEXT_BYTES)
    return [bytes(one).rstrip(b"\0").decode(errors="ignore") for one in rows]


def gather_bytes(processes: Processes, data: bytes) -> list[bytes]:
    """Each process's bytes, in the order of the processes, on every process. A collective."""
    if processes.process_count == 1:
        return [data]
    sizes = _gathered(np.array([len(data)], np.int32).tobytes(), 4).view(np.int32)[:, 0].tolist()
    rows = _gathered(data, 1 << (max(sizes) - 1).bit_length())  # powers of two: few programs to compile
    return [bytes(one[:size]) for one, size in zip(rows, sizes, strict=True)]


def _gathered(data: bytes, length: int) -> np.ndarray:
    """Each process's bytes, filled up with zeros: uint8 [processes, length]. A collective."""
    from jax.experimental import multihost_utils

    row = np.frombuffer(data.ljust(length, b"\0"), np.uint8)
    return np.asarray(multihost_utils.process_allgather(row)).reshape(-1, length)


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
        except errors.TrainerExit as error:
            verdict = _as_verdict(error)
        except StoreFailure as error:
            verdict = _as_verdict(as_exit(error, root))
        except Exception as error:
            failure = error
            text = f"process 0 failed at checkpoint root {root}: {type(error).__name__}: {error}"
            verdict = _as_verdict(errors.TrainerExit(text))
    verdict = processes.agree(verdict)
    if failure is not None:
        raise failure
    if "error" in verdict:
        raise getattr(errors, verdict["error"])(*verdict["arguments"])
    return verdict["result"]


def _as_verdict(error: errors.TrainerExit) -> dict[str, Any]:
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    owner = [error.owner_attempt] if isinstance(error, errors.Fenced) else []
    return {"error": kind.__name__, "arguments": [str(error), *owner]}


@dataclass
class Agreement:
    """Exchanges results among the processes. A collective, for the main thread."""

    processes: Processes
    root: str
    """Address of the root, for error messages."""
    step: int
    """The checkpoint's step, for error messages."""
    fix: str = _FIX
    """What the user can do about arrays of another run; the end of that error message."""

    def __call__(self, work: Callable[[], Sequence[int]]) -> list[tuple[int, ...]]:
        """Run `work` on every process and return the numbers of all processes, by process index.

        Raises:
            Damaged, RunChanged, TrainerExit: `work` failed on a process. The error is the same on every process.
        """
        try:
            text = f"valid {' '.join(map(str, work()))}"
        except Damaged as damage:
            text = f"damaged {damage}"
        except OtherState as other:
            text = f"changed {other}"
        except StoreFailure as failure:
            text = f"failed {failure.code} {failure.text}"
        results = [text.partition(" ")[::2] for text in gather_texts(self.processes, text)]
        for kind, message in results:
            if kind == "changed":
                raise errors.RunChanged(f"{message} at step {self.step} in {self.root}{self.fix}")
            if kind == "failed":
                code, _, message = message.partition(" ")
                raise as_exit(StoreFailure(code, message), self.root)
        for kind, message in results:
            if kind == "damaged":
                raise Damaged(message)
        return [tuple(map(int, message.split())) for _, message in results]
