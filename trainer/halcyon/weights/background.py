"""Exports checkpoints of a run in the background, while it trains.

Each process writes its share of the files, in a thread of its own. After each file it records, in a document of the
folder (`Part`), from which checkpoint the file was made, as the parts of ``halcyon export hf`` do. Process 0 writes
config.json when the documents of all processes together name all files; a folder without config.json is no model. A
process group that starts later goes on where the documents end, with any number of processes. A file that no document
names, or that was made from another checkpoint, is written again. So each step has one folder, which is complete or is
completed at the next chance.

Before config.json, process 0 records from which checkpoint the export was made. So a run that begins again under its
name does not take the exports of the earlier run for its own; it replaces them, beginning with their config.json.

A checkpoint is kept until its export is complete. If the store fails, the process tries again; the training goes on. If
a process cannot write its files at all, because the checkpoint is damaged, it records the reason in its document, and
process 0 gives the export up. The end of the run waits for all exports, and fails if that of the last step was given
up.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from halcyon.checkpoint.processes import Processes, decide
from halcyon.checkpoint.results import CheckpointReader
from halcyon.checkpoint.verify import Damaged
from halcyon.host.errors import BadConfiguration, RootTaken, TrainerExit
from halcyon.host.storage.failures import Abandoned, StoreFailure, as_exit
from halcyon.host.storage.store import Store
from halcyon.weights.companions import CONFIG_KEY
from halcyon.weights.exporting import PARTS, ExportPlan, Part, plan_export, read_parts
from halcyon.weights.root import stored_model
from halcyon.weights.safetensors import FILE_SECONDS
from halcyon_api.checkpoint_documents import CommittedStep, Document, Owner, canonical_json
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.export import ExportSpec

FILE_BYTES = 1_000_000_000
"""Largest file: an object store takes a file from memory, and the host's memory belongs to the training."""
KEPT_BYTES = 256 << 20
"""Bytes of the checkpoint that an export keeps in memory."""
OWNER_KEY = "OWNER"
"""Which run's exports a root holds."""
_FOLDER = "step-"
_POLL_SECONDS = 5.0
"""Pause before process 0 looks for the files of the other processes again."""
_RETRY_SECONDS = 30.0
_LAST_RETRY_SECONDS = 2.0
_LAST_TRIES = 3
"""Tries of each export at the end of the run."""


class ExportFailed(TrainerExit):
    """The training is complete, but an export of it is not. The next start of the run completes it."""


class _GivenUp(Exception):
    """A process cannot write its files of an export. The message says why."""


class Complete(Document):
    """From which checkpoint a complete export was made."""

    path: str
    """Path of the checkpoint below its root."""
    manifest_sha256: str
    files: tuple[str, ...]
    """Its files with tensors. Without one of them the export is not complete."""


@dataclass
class _Export:
    """An export that is not complete yet."""

    entry: CommittedStep
    began: float
    plan: ExportPlan | None = None
    mine_written: bool = False
    complete: bool = False
    tries: int = 0
    problem: str = ""
    """Why the last try failed."""
    reported: str = ""
    """Kind of the last failure that was reported: a store may describe the same failure in other words each time."""
    given_up: bool = False

    @property
    def open(self) -> bool:
        """Whether its checkpoint is still needed."""
        return not (self.complete or self.given_up)


@dataclass
class Exporter(CheckpointReader):
    """The exports of one process. Create it with `open_exports`."""

    spec: ExportSpec
    steps: int
    """Steps of the run."""
    checkpoints: CheckpointSpec
    processes: Processes
    complete_steps: frozenset[int]
    """Steps whose exports were complete when the process started, each from the checkpoint that the run has."""
    newest_step: int | None
    """Newest step with a complete export when the process started. Its checkpoint may be deleted."""
    on_complete: Callable[[int, str, int, float], object]
    """Called on process 0, in the exporter's thread, with the step, the address, the bytes of the tensors and the
    seconds since its checkpoint was committed."""
    on_failure: Callable[[int, str], object]
    """Called in the exporter's thread with the step and the reason of a failed try."""
    _exports: list[_Export] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _abandoned: threading.Event = field(default_factory=threading.Event)
    _leaving: bool = False
    _thread: threading.Thread | None = None

    def __post_init__(self) -> None:
        self._place = self.spec.place(self.checkpoints)
        self._root = self._store(self._place)

    def is_due(self, step: int) -> bool:
        """Whether the model is exported after `step` steps. The same on every process."""
        return self.spec.is_due(step, self.steps)

    def in_use(self, step: int) -> bool:
        """Whether an export still reads the checkpoint of a step."""
        with self._changed:
            return any(export.entry.step == step and export.open for export in self._exports)

    def begin(self, committed: Iterable[CommittedStep]) -> None:
        """Start the thread, with the exports that earlier processes did not complete.

        Args:
            committed: The checkpoints of the run.
        """
        for entry in sorted(committed, key=lambda entry: entry.step):
            self.committed(entry)
        self._thread = threading.Thread(target=self._work, name="export", daemon=True)
        self._thread.start()

    def committed(self, entry: CommittedStep) -> None:
        """Export a checkpoint if its step is due. For any thread; does not wait."""
        if not self.is_due(entry.step) or entry.step in self.complete_steps:
            return
        with self._changed:
            if all(export.entry.path != entry.path for export in self._exports):
                self._exports.append(_Export(entry, time.monotonic()))
            self._changed.notify_all()

    def not_saved(self, step: int) -> None:
        """Report that a step is not exported because its save failed. For any thread."""
        if self.is_due(step) and step not in self.complete_steps:
            self.on_failure(step, "its checkpoint was not saved, so there is nothing to export")

    def shares_written(self, seconds: float) -> bool:
        """Wait, at most this time, until this process has written its files of all exports, or has given up after the
        last tries.

        The run is at its end: exports that failed are tried again soon.
        """
        with self._changed:
            if not self._leaving:
                self._leaving = True
                for export in self._exports:
                    export.tries = 0
                self._changed.notify_all()
            return self._changed.wait_for(lambda: not any(map(self._is_waited_for, self._exports)), seconds)

    def finish(self) -> None:
        """Complete all exports, after every process has written its files. A collective, for the main thread.

        An export of an earlier step that was given up is left out: its failure is reported already.

        Raises:
            ExportFailed: An export is not complete, or that of the last step was given up. The same on every process.
        """
        self._stop_thread()

        def work() -> dict[str, Any]:
            for export in self._exports:
                if export.open and export.mine_written:
                    self._try(export, self._complete)
            return {
                "problems": [
                    f"step {export.entry.step}: {export.problem or _OTHERS}"
                    for export in self._exports
                    if export.open or (export.given_up and export.entry.step == self.steps)
                ]
            }

        problems = decide(self.processes, self._place.root, work)["problems"]
        if problems:
            raise ExportFailed(
                f"the training is complete, but not its exports in {self._place.root}; start it again: "
                f"{'; '.join(problems)}"
            )

    def abandon(self) -> None:
        """Stop reading and writing, without a wait. A later process group goes on with the exports. For any thread."""
        self._abandoned.set()

    def close(self) -> None:
        """Abandon the exports, and wait for their thread."""
        self.abandon()
        self._stop_thread()

    def _is_waited_for(self, export: _Export) -> bool:
        return export.open and not export.mine_written and export.tries < _LAST_TRIES

    def _stop_thread(self) -> None:
        with self._changed:
            self._leaving = True
            for export in self._exports:
                export.tries = _LAST_TRIES
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while not self._abandoned.is_set():
            for export in list(self._exports):
                if export.open and not export.mine_written and (not self._leaving or export.tries < _LAST_TRIES):
                    self._try(export, self._write_share)
                if export.open and export.mine_written and self.processes.process_index == 0:
                    self._try(export, self._complete)
            with self._changed:
                left = [export for export in self._exports if export.open and not export.mine_written]
                if self._leaving and not any(map(self._is_waited_for, self._exports)):
                    return
                failed = [export for export in left if export.tries]
                if len(failed) < len(left):
                    continue
                pause = (_LAST_RETRY_SECONDS if self._leaving else _RETRY_SECONDS) if failed else _POLL_SECONDS
                self._changed.wait(pause if any(export.open for export in self._exports) else None)

    def _try(self, export: _Export, work: Callable[[_Export], None]) -> None:
        """Run a part of an export. A failure is reported once, and tried again later if that can help."""
        problem, kind, lasting = "", "", False
        try:
            work(export)
        except Abandoned:
            return
        except StoreFailure as failure:
            problem, kind = f"the store does not answer: {failure}", failure.code
        except (Damaged, BadConfiguration, _GivenUp) as error:
            problem, lasting = str(error), True
        except Exception as error:  # an export must not end the training
            problem, lasting = f"{type(error).__name__}: {error}", True
        if lasting:
            try:
                self._record(export, given_up=problem)  # process 0 must not wait for this process's files
            except Abandoned:
                return
            except StoreFailure:
                lasting = False
        with self._changed:
            repeated, export.reported = export.reported == (kind or problem), kind or problem
            export.problem, export.given_up = problem, lasting
            if problem:
                export.plan = None  # it keeps a part of the checkpoint in memory
            export.tries += bool(problem)
            self._changed.notify_all()
        if problem and not repeated:
            self.on_failure(export.entry.step, problem)

    def _write_share(self, export: _Export) -> None:
        """Write this process's files, and record each."""
        plan = self._plan(export)
        folder = self._folder(export)
        written = plan.files.keys() if is_complete(self._root, export.entry) else self._written(export)
        share = plan.share(self.processes.process_index, self.processes.process_count)
        missing = [name for name in share if name not in written]
        if missing:  # without these files process 0 writes no config.json
            folder.delete(CONFIG_KEY)  # of an export from another checkpoint, whose files are replaced now
        for name in missing:
            plan.write(folder, name)
            self._record(export, name)
        export.mine_written = True
        plan.stored.arrays.release()
        if self.processes.process_index != 0:
            self._is_complete(export)

    def _record(self, export: _Export, *names: str, given_up: str = "") -> None:
        """Add files to the document of this process, or the reason why it cannot write its other files."""
        folder, key, mine = self._folder(export), f"{PARTS}{self.processes.process_index}.json", self._part(export)
        own = Part.parse(folder.read(key).data)
        files = own.files if own is not None and own.is_of(mine) else ()
        part = mine.but(files=(*files, *names), given_up=given_up)
        folder.write(key, canonical_json(part.document()))

    def _complete(self, export: _Export) -> None:
        """Write config.json if all files are there."""
        plan = self._plan(export)
        folder = self._folder(export)
        if not is_complete(self._root, export.entry) and not plan.files.keys() <= self._written(export):
            return
        for key in folder.list(""):
            if key.endswith(".safetensors") and key not in plan.files:
                folder.delete(key)  # of an export with other files, from a checkpoint that was lost
        entry = export.entry
        made = Complete(path=entry.path, manifest_sha256=entry.manifest_sha256, files=tuple(plan.files))
        self._root.write(_complete(entry.step), canonical_json(made.document()))
        plan.complete(folder)
        self._is_complete(export)
        size = sum(tensor.size_bytes for tensors in plan.files.values() for tensor in tensors)
        self.on_complete(export.entry.step, folder.root, size, time.monotonic() - export.began)
        with contextlib.suppress(StoreFailure):  # `open_exports` deletes what remains
            folder.delete_prefix(PARTS)

    def _is_complete(self, export: _Export) -> None:
        """Record that this process has nothing left to do for an export, and release its memory."""
        with self._changed:
            export.complete, export.plan, export.problem = True, None, ""
            self._changed.notify_all()

    def _plan(self, export: _Export) -> ExportPlan:
        if export.plan is None:
            stored = stored_model(self._store(self.checkpoints), export.entry, kept_bytes=KEPT_BYTES)
            export.plan = plan_export(stored, dtype=self.spec.dtype, file_bytes=FILE_BYTES)
        return export.plan

    def _written(self, export: _Export) -> set[str]:
        """The files of an export that any process has written from the same checkpoint, and that are there.

        Raises:
            _GivenUp: A process has given up.
        """
        folder = self._folder(export)
        parts = [part for part in read_parts(folder) if part.is_of(self._part(export))]
        if reasons := [part.given_up for part in parts if part.given_up]:
            raise _GivenUp(reasons[0])
        return {name for part in parts for name in part.files}.intersection(folder.list(""))

    def _part(self, export: _Export) -> Part:
        return Part(manifest_sha256=export.entry.manifest_sha256, dtype=self.spec.dtype, file_bytes=FILE_BYTES)

    def _folder(self, export: _Export) -> Store:
        root = f"{self._place.root.rstrip('/')}/{_FOLDER}{export.entry.step}"
        return self._store(self._place.but(root=root))

    def _store(self, place: CheckpointSpec) -> Store:
        return Store(place, abandoned=self._abandoned.is_set, timeout_seconds=FILE_SECONDS)


_OTHERS = "another process has not written its files; its log has the reason"


def open_exports(
    spec: ExportSpec,
    checkpoints: CheckpointSpec,
    *,
    steps: int,
    owner: Owner,
    committed: Collection[CommittedStep],
    processes: Processes,
    on_complete: Callable[[int, str, int, float], object],
    on_failure: Callable[[int, str], object],
) -> Exporter:
    """Take the root of a run's exports. A collective, for the main thread.

    Args:
        spec: ``spec.export``.
        checkpoints: ``spec.checkpoint``.
        steps: Steps of the run.
        owner: The run.
        committed: The checkpoints of the run.
        processes: The processes.
        on_complete: See `Exporter`.
        on_failure: See `Exporter`.

    Raises:
        RootTaken: The root has the exports of another run.
        RootUnusable: The store does not answer.
    """
    place = spec.place(checkpoints)

    def work() -> dict[str, Any]:
        store = Store(place)
        try:
            name = f"{owner.namespace}/{owner.name}"
            if not store.create(OWNER_KEY, name.encode()):
                found = (store.read(OWNER_KEY).data or b"").decode(errors="replace")
                raise RootTaken(
                    f"spec.export.root: {store.root} holds the exports of run {found}; give this run a folder of its "
                    "own"
                )
            keys = store.list(_FOLDER)
            exported = re.compile(rf"{_FOLDER}(\d+)/{CONFIG_KEY}")
            there = {int(found[1]) for key in keys if (found := exported.fullmatch(key))}
            complete = [entry.step for entry in committed if is_complete(store, entry)]
            _tidy(store, keys, complete)
        except StoreFailure as failure:
            raise as_exit(failure, store.root, what="export root", field="spec.export.root") from None
        steps_there = {entry.step for entry in committed}
        done, outdated = max(steps_there, default=0), steps_there - {*complete}
        return {"complete": complete, "newest": max((step for step in there - outdated if step <= done), default=None)}

    found = decide(processes, place.root, work)
    complete_steps = frozenset(found["complete"])
    return Exporter(spec, steps, checkpoints, processes, complete_steps, found["newest"], on_complete, on_failure)


def is_complete(exports: Store, entry: CommittedStep) -> bool:
    """Whether an export from this checkpoint was completed in the root, and all its files are there.

    A run of the same name may have left one of another checkpoint.
    """
    folder = f"{_FOLDER}{entry.step}/"
    made = Complete.parse(exports.read(_complete(entry.step)).data)
    if made is None or (made.path, made.manifest_sha256) != (entry.path, entry.manifest_sha256):
        return False
    return {f"{folder}{name}" for name in (CONFIG_KEY, *made.files)} <= {*exports.list(folder)}


def _tidy(store: Store, keys: Collection[str], complete: Collection[int]) -> None:
    """Delete the documents of complete exports. Let each process try again what an earlier one has given up."""
    done = {f"{_FOLDER}{step}/{PARTS}" for step in complete}
    for key in keys:
        prefix, parts, _ = key.rpartition(PARTS)
        if parts and prefix + parts in done:
            done.remove(prefix + parts)
            store.delete_prefix(prefix + parts)
        elif parts and (part := Part.parse(store.read(key).data)) is not None and part.given_up:
            store.write(key, canonical_json(part.but(given_up="").document()))


def _complete(step: int) -> str:
    return f"complete/{_FOLDER}{step}.json"
