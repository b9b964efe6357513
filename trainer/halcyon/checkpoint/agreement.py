"""Makes all processes get the same result, or the same error, for a checkpoint of which each process reads a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from halcyon.checkpoint.processes import Processes, gather_texts
from halcyon.checkpoint.reader import OtherState
from halcyon.checkpoint.verify import Damaged
from halcyon.errors import RunChanged
from halcyon.storage.failures import StoreFailure, as_exit

_FIX = "; set the configuration back to go on, or give the changed run a spec.checkpoint.root of its own"


class Agreement:
    """Exchanges results among the processes. A collective, for the main thread.

    Args:
        processes: The processes.
        root: Address of the root, for error messages.
        step: The checkpoint's step, for error messages.
        fix: What the user can do about arrays of another run; the end of that error message.
    """

    def __init__(self, processes: Processes, root: str, step: int, *, fix: str = _FIX) -> None:
        self._processes, self._root, self._step, self._fix = processes, root, step, fix

    @property
    def process_count(self) -> int:
        """Number of processes."""
        return self._processes.process_count

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
        found = [text.partition(" ")[::2] for text in gather_texts(self._processes, text)]
        for kind, message in found:
            if kind == "changed":
                raise RunChanged(f"{message} at step {self._step} in {self._root}{self._fix}")
            if kind == "failed":
                code, _, message = message.partition(" ")
                raise as_exit(StoreFailure(code, message), self._root)
        for kind, message in found:
            if kind == "damaged":
                raise Damaged(message)
        return [tuple(map(int, message.split())) for _, message in found]
