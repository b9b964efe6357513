"""The interface of the checkpoint engine to the training loop: open, restore, save, finish.

`save` blocks only for the copy into host memory. One background thread writes, verifies and commits, one save at a time
and without device collectives (see `parts` and `commit`). It reports every error: a failed save sets `last_error`, and
the next save tries again. `finish` raises if the last save failed. The next call raises `Fenced` if a newer epoch has
taken the root.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median_low
from typing import Any, Self

from halcyon.checkpoint.collect import mark_left
from halcyon.checkpoint.commit import CommitFailed, Undecided
from halcyon.checkpoint.evidence import StepNumbers
from halcyon.checkpoint.head import HeadKeeper, bad_step, with_bad
from halcyon.checkpoint.opening import same_root_everywhere, take_root
from halcyon.checkpoint.parts import second_prefix
from halcyon.checkpoint.processes import Agreement, Processes, decide, gather_texts
from halcyon.checkpoint.readback import ReadBackWorker
from halcyon.checkpoint.reader import read_state
from halcyon.checkpoint.results import (
    NO_CALLBACKS,
    PATIENCE_SECONDS,
    USUAL_LIMITS,
    Callbacks,
    CheckpointReader,
    Limits,
    Restored,
    RunRecord,
    SaveReport,
    SaveUnderWay,
)
from halcyon.checkpoint.retention import Retention
from halcyon.checkpoint.rollback import GoesBack
from halcyon.checkpoint.save_roles import Follower, Leader
from halcyon.checkpoint.save_schedule import mean_time_between_stops, save_interval
from halcyon.checkpoint.snapshot import Snapshot, Snapshotter
from halcyon.checkpoint.verify import Damaged, none_verifies
from halcyon.host.clock import timestamp
from halcyon.host.errors import Fenced, NoValidCheckpoint, RootUnusable, TrainerExit
from halcyon.host.storage.failures import STOPPED, Abandoned, SaveFailed, StoreFailure, as_exit, explain
from halcyon.host.storage.retry_budget import RetryBudget
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import (
    BadStep,
    CommittedStep,
    DamagedDocument,
    DataPosition,
    Epoch,
    EvaluationRecord,
    Evidence,
    Fingerprints,
    Head,
    Manifest,
    Owner,
    SkippedBatches,
    step_prefix,
)
from halcyon_api.spec.checkpoint import CheckpointSpec


class Checkpointer:
    """Saves and restores checkpoints in one root (see the module).

    Its construction takes the root: a collective, for the main thread.

    Args:
        spec: Root, endpoint, region, when to save, and the number of checkpoints to keep.
        run: What the checkpoints record of the run.
        owner: Name of the run.
        epoch: Epoch of the run; None outside a cluster: the attempt after the last one.
        processes: The processes.
        expected_step: A step that must already be committed; 0 if the run may be new.
        clock: Seconds since 1970.
        token: Makes a fresh random word of letters and digits.
        limits: Time limits and bounds.
        retry_budget: Retries while the root rejects the credentials, until `opened` is called. Default: no retries.
        writers: The nonces of the starts in these pods, that of this one last. Default: a fresh one, and any other
            writer of this epoch may have the root.
        callbacks: Functions to call after saves and reads. Default: none.

    Raises:
        Fenced, PodsLost, RootTaken, RootUnusable, RunChanged, NoValidCheckpoint: The same on every process.
        Preempted: A preemption notice came while the root rejected the credentials. The same on every process.
        TrainerExit: The store did not answer; a retry may succeed.
    """

    def __init__(
        self,
        spec: CheckpointSpec,
        run: RunRecord,
        *,
        owner: Owner,
        epoch: Epoch | None,
        processes: Processes,
        expected_step: int,
        clock: Callable[[], float] = time.time,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
        limits: Limits = USUAL_LIMITS,
        retry_budget: RetryBudget | None = None,
        writers: Sequence[str] = (),
        callbacks: Callbacks = NO_CALLBACKS,
    ) -> None:
        self._spec, self._run, self._processes, self._limits, self._clock = spec, run, processes, limits, clock
        self._callbacks, self._stop = callbacks, threading.Event()
        main = threading.main_thread()
        try:
            # If the main thread ended without `close` (an uncaught error), the background must end too: the other
            # processes may be dead.
            self._store = store = Store(
                spec,
                abandoned=lambda: self._stop.is_set() or not main.is_alive(),
                timeout_seconds=limits.request_seconds,
                retry_budget=retry_budget,
            )
        except StoreFailure as failure:
            raise as_exit(failure, spec.root) from None
        self._keeper: HeadKeeper | None = None

        def take() -> dict[str, Any]:
            self._keeper, loss = take_root(
                store,
                owner=owner,
                epoch=epoch,
                writer=writers[-1] if writers else token(),
                earlier=writers[:-1] if writers else None,
                fingerprints=run.fingerprints,
                expected_step=expected_step,
            )
            return {"head": self._keeper.head.document(), "loss": loss}

        taken = decide(processes, store.root, take)
        self._head = head = Head.model_validate_json(json.dumps(taken["head"]))
        self._check_sees(head.writer)
        self.head_loss: str | None = taken["loss"]
        """Why HEAD was rebuilt from the checkpoints when the root was taken; None if it was not."""
        self.start = head.starts
        """The number of this start among those that have taken the root, from 1 on."""
        self.epoch = head.epoch
        """The epoch with which this process took the root."""
        self.writer = head.writer
        """The nonce with which process 0 took the root, as HEAD has it."""
        self.segments: Callable[[int], dict[str, str] | None] = lambda step: None
        """The files of the history with all rows so far, which each link names; called in the background."""
        self._readers: list[CheckpointReader] = []
        self._wants: list[Callable[[int], bool]] = []
        self._snapshotter = Snapshotter(processes.process_index, processes.process_count)
        self._thread: threading.Thread | None = None
        self._readback = ReadBackWorker(
            store,
            self._keeper,
            processes,
            timeout_seconds=limits.parts_seconds,
            sleep=self._pause,
            on_read_back=self._take_read_back,
            on_warning=callbacks.on_warning,
            on_fatal=self._end_by,
        )
        self._save_wanted = False
        self._step, self._try = -1, 0
        index, wait = processes.process_index, limits.parts_seconds
        self._saver: Leader | Follower = (
            Follower(store, index, self.epoch, self.writer, timeout_seconds=wait, sleep=self._pause)
            if self._keeper is None
            else Leader(
                store,
                self._keeper,
                retention=Retention.of(spec, lambda step: any(reader.in_use(step) for reader in self._readers)),
                timeout_seconds=wait,
                sleep=self._pause,
                warn=callbacks.on_warning,
                read_back_every=lambda: 0 if self._readback.busy else spec.verify.every_saves,
                segments=lambda step: self.segments(step),
            )
        )
        self._last_save_at = clock()
        self._saving_since: float | None = None
        self._waited_seconds = 0.0
        self._took_seconds: tuple[float, ...] = ()
        self._fatal: Exception | None = None
        self._failure: str | None = None
        self.last_error: str | None = None
        """Why the last save failed, or why old checkpoints could not be deleted after it; None without an error."""
        self.last_save: SaveReport | None = None
        """The last committed save of this process."""

    def _check_sees(self, writer: str) -> None:
        """Check that all processes see the root that process 0 took. A collective."""
        root, count = self._store.root, self._processes.process_count
        views = gather_texts(self._processes, "" if self._keeper else same_root_everywhere(self._store, writer))
        if STOPPED in views:
            raise as_exit(StoreFailure(STOPPED, ""), root)
        for process, view in enumerate(views):
            if view:
                raise RootUnusable(
                    f"process {process} of {count} does not see the checkpoint root {root} that process 0 wrote "
                    f"({view}); use an object store, or mount one shared volume on all hosts with "
                    "spec.checkpoint.volumeClaim"
                )

    @property
    def fingerprints(self) -> Fingerprints:
        """The fingerprints of the run."""
        return self._run.fingerprints

    def opened(self) -> None:
        """End the retries of rejected requests: from now on such a request fails at once, so a failed save is reported
        without a wait.
        """
        self._store.retry_budget = None

    def add_reader(self, reader: CheckpointReader, *, wants: Callable[[int], bool] = lambda step: False) -> None:
        """Tell a reader of each commit, and keep the checkpoints that it still reads.

        Args:
            reader: The reader.
            wants: Whether it reads the checkpoint of a step, so that one is made. The same on every process.
        """
        self._readers.append(reader)
        self._wants.append(wants)

    @property
    def newest(self) -> CommittedStep | None:
        """The newest committed checkpoint that this process knows."""
        return self._head.newest

    @property
    def kept(self) -> CommittedStep | None:
        """`newest`, but on process 0 without what a read-back has found damaged since the last save: for reports, not
        for decisions of all processes.
        """
        return self.newest if self._keeper is None else self._keeper.head.newest

    def agreed(self) -> CommittedStep | None:
        """What process 0 has `kept`. A collective, for the main thread."""
        self._change_head(lambda head: head)
        return self.newest

    @property
    def committed(self) -> tuple[CommittedStep, ...]:
        """The committed checkpoints that this process knows, newest first.

        After `restore` the same on every process.
        """
        return self._head.committed

    # Restoring

    def restore(self, template: Any) -> Restored | None:
        """Read the newest checkpoint that verifies. A collective, for the main thread.

        Skips at most `Limits.damaged_checkpoints` damaged checkpoints. If there are more, it raises, so that the user
        decides.

        Args:
            template: Tree of ``jax.ShapeDtypeStruct`` with shardings (or of arrays): the arrays to read, and their
                devices.

        Returns:
            The state, bitwise as it was saved; None if the root is fresh.

        Raises:
            NoValidCheckpoint: There are checkpoints, but none of the checkpoints that were tried verifies. Nothing is
                deleted or marked.
            RunChanged: The arrays of the checkpoint are not those of the template.
            Fenced: A newer epoch has the root.
        """
        skipped: list[BadStep] = []
        restored: Restored | None = None
        for entry in self._head.committed[: self._limits.damaged_checkpoints + 1]:
            agree = Agreement(self._processes, self._store.root, entry.step)
            shared = self._limits.shared_read_bytes
            try:
                state = read_state(self._store, entry, template, agree, share_from_bytes=shared)
            except Damaged as damage:  # the same on every process
                skipped.append(bad_step(entry, str(damage)))
            else:
                restored = Restored(entry.step, state, entry, tuple(skipped))
                break
        if self._head.committed and restored is None:
            raise NoValidCheckpoint(none_verifies(self._store.root, skipped, self._head.committed[len(skipped) :]))
        if skipped:
            self._change_head(lambda head: with_bad(head, skipped))
        self._in_background(lambda: self._snapshotter.prepare(template))
        return restored

    # Going back

    @property
    def skipped(self) -> tuple[SkippedBatches, ...]:
        """The returns of the run to earlier checkpoints, oldest first. The same on every process."""
        return self._head.skipped

    def inherit(self, past: tuple[SkippedBatches, ...]) -> None:
        """Take over the returns of the run that this run begins from. A collective, for the main thread, before the
        first save.

        Raises:
            Fenced: A newer epoch has the root.
            TrainerExit: The store did not answer.
        """
        self._change_head(lambda head: head.but(skipped=past))

    def go_back(self, back: GoesBack) -> SkippedBatches | None:
        """Make an earlier checkpoint the newest one, and record the batches to leave out. A collective, for the main
        thread.

        Waits for the save in flight. Then call `restore`.

        Returns:
            The record; None: the run need not go back, or has no checkpoint to go back to, and nothing is changed.

        Raises:
            Fenced: A newer epoch has the root.
            TrainerExit: The store did not answer.
        """
        self._join()
        self.poll()
        self._callbacks.on_return()
        returns = len(self._head.skipped)
        # A change whose answer was lost is tried again on a HEAD that may have it already.
        self._change_head(lambda head: back.applied(head) if len(head.skipped) == returns else head)
        return self._head.skipped[-1] if len(self._head.skipped) > returns else None

    def _change_head(self, change: Callable[[Head], Head]) -> None:
        """Change HEAD on process 0, and take it over on all. A collective."""
        keeper = self._keeper

        def work() -> dict[str, Any]:
            if keeper is None:
                return {}
            try:
                head = keeper.update(change)
                mark_left(self._store, head)
                return head.document()
            except DamagedDocument as damage:
                raise TrainerExit(
                    f"{damage} in checkpoint root {self._store.root}; start again to have it rebuilt"
                ) from None

        self._head = Head.model_validate_json(json.dumps(decide(self._processes, self._store.root, work)))
        self._callbacks.on_newest(self.newest)

    # Saving

    def should_save(self, step: int) -> bool:
        """Whether ``spec.save``, ``spec.permanent`` or a reader wants a checkpoint after `step` steps. The same on
        every process; saves by time are not, so processes exchange `due` instead.
        """
        every = 0 if self._spec.save.auto else self._spec.save.every_steps
        return (every > 0 and step > 0 and step % every == 0) or self.is_promised(step)

    def is_promised(self, step: int) -> bool:
        """Whether ``spec.permanent`` or a reader wants the checkpoint of exactly this step."""
        return Retention.of(self._spec).is_permanent(step) or any(wants(step) for wants in self._wants)

    def due(self, now: float) -> bool:
        """Whether ``spec.save.everySeconds``, or the best interval, has passed since the last save began, or a
        read-back found damage.
        """
        interval = self.interval_seconds
        return self._save_wanted or (interval is not None and now - self._last_save_at >= interval)

    @property
    def interval_seconds(self) -> float | None:
        """Seconds between saves by time; None without saves by time.

        With ``save.auto`` the processes measure different values.
        """
        blocked = self.last_save and self.last_save.copy_seconds
        return save_interval(self._spec, self.mean_seconds, blocked, self.expected_seconds or 0.0)

    @property
    def mean_seconds(self) -> float:
        """Mean time between stops of the run, estimated."""
        return mean_time_between_stops(self._head.up_milliseconds / 1000, max(0, self._head.starts - 1))

    @property
    def expected_seconds(self) -> float | None:
        """Median duration of the last five saves, from the copy to the commit; None before the first save."""
        return median_low(self._took_seconds) if self._took_seconds else None

    @property
    def under_way(self) -> SaveUnderWay | None:
        """The save in flight, with the deletions after its commit; None without one."""
        since, now = self._saving_since, time.monotonic()
        if self.wait(0.0) or since is None:
            return None
        usual, seconds, silent_seconds = self.expected_seconds, now - since, now - max(self._store.answered_at, since)
        over = silent_seconds if usual is None else seconds - usual  # the first one is late if the store is silent
        return SaveUnderWay(self._step, seconds, silent_seconds, over > PATIENCE_SECONDS)

    def wait(self, seconds: float | None) -> bool:
        """Wait at most this time (None: no limit) for the save in flight. True: there is none any more."""
        if self._thread is None or self._saving_since is None:
            return True
        began = time.monotonic()
        self._thread.join(seconds)
        self._waited_seconds += time.monotonic() - began
        return not self._thread.is_alive()

    def save(
        self,
        step: int,
        state: Any,
        data_position: DataPosition,
        evaluation: EvaluationRecord | None = None,
        numbers: StepNumbers | None = None,
    ) -> None:
        """Begin a checkpoint. All processes call it, on the main thread.

        `numbers` are those of the steps since the last commit, for the chain of evidence; None: there is no chain.

        Waits for the save in flight. Does nothing if this step is already committed. Returns as soon as the state is
        copied into host memory, so its buffers may be donated.

        Raises:
            Fenced: A newer epoch has the root.
            ValueError: The root holds a checkpoint of a later step, so this state was not restored from it.
        """
        self.wait(None)
        self._join()
        self.poll()
        if self.newest is not None and step < self.newest.step:
            raise ValueError(
                f"step {step} comes before the committed step {self.newest.step} in {self._store.root}; restore it "
                "first"
            )
        if self.newest is not None and step == self.newest.step:
            return
        copying = time.monotonic()
        snapshot = self._snapshotter.take(state)
        copy_seconds = time.monotonic() - copying
        blocked_seconds, self._waited_seconds = self._waited_seconds + copy_seconds, 0.0
        self._last_save_at = self._clock()
        self._save_wanted = False
        self._try = self._try + 1 if step == self._step else 1
        self._step = step
        # The same on every process, without communication.
        # After a return, a step is saved again: its prefix must not be one whose deletion has begun.
        tries = f"{len(self._head.skipped)}x{self._try}" if self._head.skipped else str(self._try)
        prefix = step_prefix(step, self.epoch.attempt, f"{self.writer}-{tries}")
        evidence = None
        if numbers is not None:  # process 0 fills in the link that it follows
            count, digest = numbers.since(self.newest.step if self.newest else 0, step)
            hardware, audited = self._run.hardware, numbers.audited
            evidence = Evidence(steps=count, numbers=digest, hardware=hardware, audited=audited)
        about = Manifest(
            step=step,
            epoch=self.epoch,
            owner=self._head.owner,
            process_count=self._processes.process_count,
            leaves=(),
            files=(),
            data_position=data_position,
            versions={},
            time=timestamp(self._last_save_at),
            evaluation=evaluation,
            evidence=evidence,
            **{name: value for name, value in vars(self._run).items() if name != "hardware"},
        )
        self._in_background(lambda: self._write(prefix, snapshot, about, blocked_seconds, copy_seconds), copying)

    def poll(self) -> None:
        """Raise an error of the background threads that must end the training.

        Raises:
            Fenced: A newer epoch has the root.
            Exception: A callback raised it, or a read-back failed unexpectedly.
        """
        if self._fatal is not None:
            raise self._fatal

    def finish(self) -> None:
        """Wait until the last save is committed.

        Raises:
            SaveFailed: The last save was not committed; the message says why.
            Fenced: A newer epoch has the root.
        """
        if why := self.finish_within(None):
            raise SaveFailed(why)

    def finish_within(self, seconds: float | None) -> str:
        """Wait until the last save is committed, at most this time (None: no limit).

        Returns:
            Why the save is not committed; empty if it is, or if there was none.

        Raises:
            Fenced: A newer epoch has the root.
        """
        if not self.wait(seconds):
            slow = self.under_way
            return f"the checkpoint at step {self._step} was not committed in time{slow.clause if slow else ''}"
        self.poll()
        return self._failure or ""

    def close(self) -> None:
        """Abandon the save in flight and the read-back, and stop the background threads.

        HEAD never lists an unfinished checkpoint.
        """
        self._stop.set()
        self._join()
        self._readback.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # In the background

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _in_background(self, work: Callable[[], None], saving_since: float | None = None) -> None:
        self._join()
        self._saving_since = saving_since
        self._thread = threading.Thread(target=work, name="checkpoint")
        self._thread.start()

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Abandoned

    def _write(
        self, prefix: str, snapshot: Snapshot, about: Manifest, blocked_seconds: float, copy_seconds: float
    ) -> None:
        began = time.monotonic()
        error: str | None = None
        stopped = False
        try:
            self._head = self._saver.save(prefix, snapshot, about)
        except Abandoned:
            error, stopped = "the process abandoned it", True
        except Fenced as fenced:
            self._fatal = fenced
            error, stopped = str(fenced), True
        except StoreFailure as failure:
            error = explain(failure, self._store.root)
        except Undecided as undecided:
            error = f"it is unknown whether HEAD was changed; {explain(undecided.failure, self._store.root)}"
        except (CommitFailed, DamagedDocument) as failure:
            error = f"checkpoint root {self._store.root}: {failure}"
        except Exception as failure:
            error = f"checkpoint root {self._store.root}: {type(failure).__name__}: {failure}"
        self._failure = None if error is None else f"the checkpoint at step {about.step} was not saved: {error}"
        self.last_error = self._failure
        if error is None:
            entry = next(one for one in self._head.committed if one.path in (prefix, second_prefix(prefix)))
            self.last_save = SaveReport(entry, blocked_seconds, copy_seconds, time.monotonic() - began)
            self._took_seconds = (*self._took_seconds[-4:], copy_seconds + self.last_save.commit_seconds)
        try:
            if error is None and self.last_save is not None:
                for reader in self._readers:
                    # One may be of a save whose commit was reported as failed.
                    for entry in reversed(self._head.committed):
                        reader.committed(entry)
                self._callbacks.on_commit(replace(self.last_save, interval_seconds=self.interval_seconds))
                self._tidy()
                if self.last_save.checkpoint.verification == "wanted":
                    self._readback.begin(self.last_save.checkpoint, self._saver.written)
            if error is not None and not stopped and self._keeper is not None:
                for reader in self._readers:
                    reader.not_saved(about.step)
            if self.last_error is not None:
                self._callbacks.on_failure(self.last_error)
        except Exception as failure:
            self._fatal = failure

    def _tidy(self) -> None:
        try:
            self._saver.tidy()
        except Fenced as fenced:
            self._fatal = fenced
        except Abandoned:
            return
        except (StoreFailure, DamagedDocument) as failure:
            self.last_error = f"checkpoint root {self._store.root}: old checkpoints could not be deleted ({failure})"

    def _take_read_back(self, entry: CommittedStep, damage: str | None) -> None:
        if damage is not None:
            self._save_wanted = True
            self._callbacks.on_newest(self.kept)
        self._callbacks.on_read_back(entry, damage)

    def _end_by(self, failure: Exception) -> None:
        self._fatal = failure
