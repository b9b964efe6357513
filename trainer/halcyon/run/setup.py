"""What a training has before its first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from halcyon.checkpoint import Checkpointer
from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.memory.tier import MemoryTier
from halcyon.parallel.preemption import PreemptionNotice
from halcyon.parallel.sync_point import SyncPoint
from halcyon.run.place import Place
from halcyon.run.programs import Programs
from halcyon.telemetry import ProfileRequests, SaveRequests
from halcyon.tokenizer import Tokenizer

if TYPE_CHECKING:
    from halcyon.evals.benchmarks import Benchmark


@dataclass
class Setup:
    """What a training has before its first step. Its optional features are made from it."""

    place: Place
    programs: Programs
    tokenizer: Tokenizer
    checkpointer: Checkpointer
    notice: PreemptionNotice
    sync_point: SyncPoint
    numbers: StepNumbers
    """The numbers of the steps, for the chain of evidence."""
    requests: SaveRequests
    """Requests for a checkpoint from outside the loop."""
    profile_requests: ProfileRequests
    benchmarks: Sequence[Benchmark]
    """The benchmarks of ``spec.trainer.evaluation.tasks``."""
    memory: MemoryTier | None
    """The snapshots in the memory of the pods."""
