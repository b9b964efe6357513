"""What a process has kept of one step, and which step all processes can go back to. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt, StringConstraints

from halcyon_api.checkpoint_documents import Document, EvaluationRecord, ManifestFile


class KeptPart(Document):
    """One process's part of a snapshot."""

    step: NonNegativeInt
    """Steps done."""
    process: NonNegativeInt
    writer: Annotated[str, StringConstraints(max_length=64)]
    """The nonce of the start that made it."""
    returns: NonNegativeInt
    """How often the run had gone back to a checkpoint: a snapshot from before a return is of a state that was given
    up."""
    files: tuple[ManifestFile, ...]
    evaluation: EvaluationRecord | None = None
    """The evaluations before it, of process 0."""
    numbers: dict[str, str] = Field(default_factory=dict)
    """The bits of the numbers of each step since the newest checkpoint, in hexadecimal, of process 0."""
    audited: NonNegativeInt | None = None
    """Step of the last audit that found all numbers right."""


@dataclass(frozen=True)
class KeptStep:
    """A snapshot of which some process has each part."""

    parts: tuple[KeptPart, ...]
    """By process."""
    holders: tuple[tuple[int, ...], ...]
    """The processes that have each part; its own process is the first if it is one of them."""

    @property
    def step(self) -> int:
        """Steps done."""
        return self.parts[0].step


def places(process: int, slices: int, hosts_per_slice: int, copies: int) -> tuple[int, ...]:
    """The processes that keep the copies of a process's part: at the same place of the next slices, or the next hosts
    of a single slice.
    """
    stride, count = (hosts_per_slice, slices) if slices > 1 else (1, hosts_per_slice)
    return tuple((process + number * stride) % (stride * count) for number in range(1, min(copies, count - 1) + 1))


def complete_steps(kept: Sequence[Iterable[KeptPart]], writers: Collection[str], returns: int) -> list[KeptStep]:
    """The snapshots that can be had, newest first.

    Args:
        kept: The parts that each process has.
        writers: The nonces of the starts in these pods.
        returns: How often the run has gone back to a checkpoint.
    """
    found: dict[tuple[int, str], dict[int, tuple[KeptPart, list[int]]]] = {}
    for holder, parts in enumerate(kept):
        for part in parts:
            if part.writer not in writers or part.returns != returns or part.process >= len(kept):
                continue
            own = found.setdefault((part.step, part.writer), {}).setdefault(part.process, (part, []))
            if own[0] == part:
                own[1].insert(0 if holder == part.process else len(own[1]), holder)
    return [
        KeptStep(
            tuple(found[key][process][0] for process in range(len(kept))),
            tuple(tuple(found[key][process][1]) for process in range(len(kept))),
        )
        for key in sorted(found, reverse=True)
        if len(found[key]) == len(kept)
    ]
