"""The memory tier of a training: takes snapshots between steps, keeps and copies them in the background, and finds the
newest one when the processes start again in their pods.

A failure costs only the snapshot: it is reported once, and the training goes on.
"""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

from halcyon.checkpoint import layout
from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.memory.documents import KeptPart, KeptStep, complete_steps, places
from halcyon.checkpoint.memory.folder import Folder
from halcyon.checkpoint.memory.peers import Peer, PeerServer
from halcyon.checkpoint.parts import encoded, file_of
from halcyon.checkpoint.processes import Agreement, Processes, gather_bytes
from halcyon.checkpoint.reader import Pair, read_arrays
from halcyon.checkpoint.results import USUAL_LIMITS
from halcyon.checkpoint.save_schedule import best_interval
from halcyon.checkpoint.snapshot import Snapshot, Snapshotter
from halcyon.checkpoint.verify import Damaged
from halcyon_api.base import ApiModel
from halcyon_api.checkpoint_documents import EvaluationRecord, ManifestFile
from halcyon_api.spec.checkpoint import MemorySpec

COST = 0.01
"""Greatest share of the time for which snapshots block the training, where their interval is chosen."""
WORK = 0.1
"""Greatest share of the time in which they are written and copied, in the background."""


class _Inventory(ApiModel):
    """What a process has, for the others."""

    port: int
    host: str
    parts: tuple[KeptPart, ...]


@dataclass(frozen=True)
class Recalled:
    """A state that was read from the memory of the pods."""

    step: int
    state: Any
    evaluation: EvaluationRecord | None
    own_files: int
    """Files that the processes had in their own pods' memory."""
    peer_files: int
    """Files from the memory of other pods."""


@dataclass
class _Source:
    """Reads the files of a snapshot, from the own memory or else from another pod's."""

    folder: Folder
    kept: KeptStep
    me: int
    addresses: Sequence[tuple[str, int]]
    token: str
    own_files: int = 0
    peer_files: int = 0
    _part: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._part = {file.path: number for number, part in enumerate(self.kept.parts) for file in part.files}

    def owner(self, file: ManifestFile) -> int:
        """The process that has a file, the one that made it first."""
        return self.kept.holders[self._part[file.path]][0]

    def read(self, file: ManifestFile) -> bytes:
        """A file, checked.

        Raises:
            Damaged: No process has it, as it was written.
        """
        process = self._part[file.path]
        holders = self.kept.holders[process]
        if self.me in holders and (data := self.folder.read(process, file)) is not None:
            self.own_files += 1
            return data
        for holder in holders:
            if holder == self.me:
                continue
            with Peer(self.addresses[holder], self.token) as peer:
                data = peer.get(process, file)
            if data is not None and file_of(file.path, (data,)) == file:
                self.peer_files += 1
                return data
        raise Damaged(f"no pod has {file.path} as it was written")


class MemoryTier:
    """The snapshots of one process.

    Args:
        spec: ``spec.checkpoint.memory``.
        path: Folder in the pod's memory.
        processes: The processes.
        topology: Number of slices, and hosts of each.
        host: Address of this pod for the others.
        token: Secret of the attempt's pods.
        writers: The nonces of the starts in these pods, that of this one last.
        on_warning: Called with a failure that costs only a snapshot.
        on_kept: Called with each step that this process has kept or gone back to.
    """

    def __init__(
        self,
        spec: MemorySpec,
        path: Path,
        processes: Processes,
        topology: tuple[int, int],
        *,
        host: str,
        token: str,
        writers: Sequence[str],
        on_warning: Callable[[str], object],
        on_kept: Callable[[int], object],
    ) -> None:
        self._spec, self._processes, self._me = spec, processes, processes.process_index
        self._folder, self._token, self._writers, self._host = Folder(path), token, tuple(writers), host
        self._copies = places(self._me, *topology, spec.copies)
        self._on_warning, self._on_kept, self._warned = on_warning, on_kept, False
        self._snapshotter = Snapshotter(self._me, processes.process_count)
        self._server = PeerServer(self._folder, token)
        self._addresses: list[tuple[str, int]] = []
        self._thread: threading.Thread | None = None
        self._next_at = 0.0
        self.step = 0
        """The newest step that this process has kept."""
        self.flushed: Callable[[], bool] = lambda: True
        """Whether the history has all rows so far, on process 0; called in the background."""

    # Going back to one

    def recall(self, template: Any, *, returns: int, committed: int, numbers: StepNumbers) -> Recalled | None:
        """Read the newest snapshot of which all files can be had, if no checkpoint is newer. A collective, for the main
        thread.

        Args:
            template: See `Checkpointer.restore`.
            returns: How often the run has gone back to a checkpoint.
            committed: Step of the newest checkpoint.
            numbers: Gets the numbers of the steps since then.

        Returns:
            The state, bitwise as it was; None: the newest checkpoint is to be read.
        """
        own = _Inventory(port=self._server.server_address[1], host=self._host, parts=tuple(self._folder.parts()))
        gathered = gather_bytes(self._processes, own.model_dump_json().encode())
        there = [_Inventory.model_validate_json(one) for one in gathered]
        self._addresses = [(one.host, one.port) for one in there]
        steps = complete_steps([one.parts for one in there], self._writers, returns)
        for kept in (one for one in steps if one.step >= committed):
            try:
                found = self._read(kept, template)
            except Damaged as damage:  # the same on every process
                self._warn(f"the snapshot of step {kept.step} in the memory of the pods is not used: {damage}")
                continue
            numbers.take_over(kept.parts[0].numbers, kept.parts[0].audited)
            self.step = kept.step
            self._on_kept(kept.step)  # a new pod of process 0 has a new supervisor, which does not know it
            return found
        return None

    def _read(self, kept: KeptStep, template: Any) -> Recalled:
        source = _Source(self._folder, kept, self._me, self._addresses, self._token)
        agree = Agreement(self._processes, "the memory of the pods", kept.step)

        def find() -> tuple[list[Pair], list[ManifestFile]]:
            leaves = layout.flatten(template)
            limit = layout.chunk_limit(layout.state_bytes(leaves))
            pairs = [(layout.describe(leaf, limit), leaf) for leaf in leaves]
            files = [file for part in kept.parts for file in part.files]
            metadata = {layout.metadata_path(leaf) for leaf, _ in pairs}
            if {file.path for file in files} != layout.expected_files([leaf for leaf, _ in pairs]) - metadata:
                raise Damaged("its files are not those of the state")
            return pairs, files

        size = sum(file.size_bytes for part in kept.parts for file in part.files)
        is_shared = size >= USUAL_LIMITS.shared_read_bytes
        state = read_arrays(template, agree, find, source.read, is_shared=is_shared, owner=source.owner)
        own, of_peers = map(sum, zip(*agree(lambda: (source.own_files, source.peer_files)), strict=True))
        return Recalled(kept.step, state, kept.parts[0].evaluation, own, of_peers)

    def forget(self) -> None:
        """Delete all snapshots of this pod: the run goes back to a checkpoint."""
        self._join()
        self._folder.forget()

    # Keeping one

    def is_due(self, step: int) -> bool:
        """Whether the document names this step. The same on every process."""
        return self._spec.every_steps is not None and step % self._spec.every_steps == 0

    def is_time(self, now: float) -> bool:
        """Whether a snapshot would cost this process little enough now. Processes differ, so they exchange it."""
        busy = self._thread is not None and self._thread.is_alive()
        return self._spec.every_steps is None and not busy and now >= self._next_at

    def keep(
        self,
        step: int,
        state: Any,
        *,
        returns: int,
        evaluation: EvaluationRecord | None,
        numbers: StepNumbers,
        since: float,
        mean_seconds: float,
    ) -> None:
        """Take a snapshot, which is kept and copied in the background. All processes call it, on the main thread.

        Args:
            step: Steps done.
            state: The state after them. Its buffers may be donated once this returns.
            returns: How often the run has gone back to a checkpoint.
            evaluation: The evaluations so far.
            numbers: The numbers of the steps since the newest checkpoint.
            since: Monotonic time at which the training began to wait for this.
            mean_seconds: Mean time between stops of the run.
        """
        self._join()
        snapshot = replace(self._snapshotter.take(state), metadata=())
        part = KeptPart(step=step, process=self._me, writer=self._writers[-1], returns=returns, files=())
        if self._me == 0:
            part = part.but(evaluation=evaluation, numbers=numbers.pending(), audited=numbers.audited)
        blocked = time.monotonic() - since
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, part, blocked, mean_seconds), name="memory-tier", daemon=True
        )
        self._thread.start()

    def _write(self, snapshot: Snapshot, part: KeptPart, blocked: float, mean_seconds: float) -> None:
        began = time.monotonic()
        try:
            files = encoded(snapshot, lambda path, data: self._folder.write(self._me, path, data))
            if self.flushed():  # the losses of its steps would otherwise be lost with this process
                part = part.but(files=files)
                self._folder.keep(part)
                self.step = part.step
                self._on_kept(part.step)
                self._copy(part)
        except Exception as failure:
            self._warn(f"the snapshot of step {part.step} was not kept in memory: {type(failure).__name__}: {failure}")
            self._folder.tidy(self._me, part.writer)  # what it has written takes up room
        took = time.monotonic() - began
        self._next_at = time.monotonic() + max(best_interval(blocked, mean_seconds, took / WORK), blocked / COST)

    def _copy(self, part: KeptPart) -> None:
        for place in self._copies if self._addresses else ():
            try:
                with Peer(self._addresses[place], self._token) as peer:
                    peer.send(self._folder, part)
            except (OSError, HTTPException) as failure:
                self._warn(f"process {place} has not kept the copy of the snapshot of step {part.step}: {failure}")

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            self._on_warning(f"{what}; a restart then reads an older state")

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Stop serving, and send no more copies. What is kept stays."""
        self._copies = ()
        with suppress(OSError):
            self._server.close()
