"""Opens a root: takes it for a run, or reads it for users and tools without taking it.

Process 0 takes a root: it checks that the root is usable, belongs to this run and has its fingerprints, and
then fences it.

All checks of the run come before the first write to HEAD, so a rejected process does not change HEAD or the
checkpoints.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from halcyon.checkpoint.collect import FIRST, LAST, mark_left, unlisted_prefixes, unnamed
from halcyon.checkpoint.fingerprints import differences, planned_steps, sentence, with_steps
from halcyon.checkpoint.head import HeadKeeper, copies, copy_key, take
from halcyon.checkpoint.verify import none_verifies, readable, rebuild_head
from halcyon.host.errors import BadConfiguration, NoValidCheckpoint, RunChanged, TrainerExit
from halcyon.host.storage.abilities import ProbeContended, require_abilities
from halcyon.host.storage.failures import STOPPED, StoreFailure, as_exit
from halcyon.host.storage.store import Store, Value
from halcyon_api.checkpoint_documents import (
    HEAD_KEY,
    BadStep,
    CommittedStep,
    DamagedDocument,
    Epoch,
    Fingerprints,
    Head,
    Owner,
    RebuiltHead,
    decode_head,
    encode_head,
    step_prefix,
)
from halcyon_api.edits.steps import steps_refusal
from halcyon_api.spec.checkpoint import CheckpointSpec
from halcyon_api.spec.optimizer import OptimizerSpec

QUARANTINE_PREFIX = "quarantine/"
_TRIES = 20


def take_root(
    store: Store,
    *,
    owner: Owner,
    epoch: Epoch | None,
    writer: str,
    fingerprints: Fingerprints,
    expected_step: int,
    earlier: Sequence[str] | None = None,
) -> tuple[HeadKeeper, str | None]:
    """Make this process the only writer of a root.

    Returns:
        HEAD, and why it was rebuilt from the checkpoints; None if it was not.

    Raises:
        RootTaken: The root belongs to another run.
        Fenced: A newer epoch has the root.
        PodsLost: See `halcyon.checkpoint.head.take`.
        RunChanged: The fingerprints of the run differ from those of the checkpoints.
        NoValidCheckpoint: A checkpoint is expected, but there is no valid one.
        RootUnusable: The root cannot be written, or lacks working conditional writes or consistent listings.
        TrainerExit: Other processes took the root again and again.
        StoreFailure: The store did not answer.
    """
    probed = False
    for _ in range(_TRIES):
        present = store.read(HEAD_KEY)
        head, loss = load_head(store, present)
        wanted = take(head, owner=owner, epoch=epoch, writer=writer, root=store.root, earlier=earlier)
        if loss is not None:
            wanted = wanted.but(rebuilt=RebuiltHead(reason=loss, epoch=wanted.epoch))
        _expect_checkpoint(head, expected_step, store.root)
        if head is not None:
            _expect_same_run(store, head, fingerprints)
        if not probed:
            try:
                require_abilities(store, writer, fresh=present.data is None)
            except ProbeContended:
                raise _contended(store.root) from None
            probed = True
        if loss is not None and present.data is not None:
            store.write(f"{QUARANTINE_PREFIX}HEAD.{writer}", present.data)
        data = encode_head(wanted)
        generation = store.swap(HEAD_KEY, data, present.generation)
        if generation is None:  # another process was first, or our own first try succeeded and its answer was lost
            again = store.read(HEAD_KEY)
            generation = again.generation if again.data == data else None
        if generation is not None:
            # Finish what a killed writer has left: copy HEAD, delete the copies of earlier ones, mark what left HEAD.
            store.write(copy_key(writer), data)
            for key, copy in copies(store).items():
                if copy.starts < wanted.starts:
                    store.delete(key)
            mark_left(store, wanted)
            return HeadKeeper(store, wanted, generation), loss
    raise _contended(store.root)


def _contended(root: str) -> TrainerExit:
    return TrainerExit(
        f"checkpoint root {root} is taken by other processes again and again; make sure that only one run uses it"
    )


def load_head(store: Store, present: Value | None = None) -> tuple[Head | None, str | None]:
    """HEAD of a root, or rebuilt from its copy and the checkpoints if it is missing or damaged.

    Args:
        store: The root.
        present: The stored HEAD, if it was read already.

    Returns:
        HEAD, or None if the root is fresh; and why HEAD was rebuilt, or None if it was not.

    Raises:
        NoValidCheckpoint: HEAD is damaged, and there is no committed checkpoint from which to rebuild it; or HEAD is
            missing, and all checkpoints are damaged.
        StoreFailure: The store did not answer.
    """
    data, loss = (present or store.read(HEAD_KEY)).data, "HEAD is missing"
    try:
        if data is not None:
            return decode_head(data), None
    except DamagedDocument as damage:
        loss = str(damage)
    head, bad = rebuild_head(store)
    if head is not None:
        return head, loss
    if bad:
        raise NoValidCheckpoint(none_verifies(store.root, bad, ()))
    if data is not None:
        raise NoValidCheckpoint(
            f"{loss} in checkpoint root {store.root}, and no committed checkpoint lies there; restore HEAD from a "
            "backup, or give the run a new spec.checkpoint.root"
        )
    return None, None


def committed_steps(store: Store) -> tuple[CommittedStep, ...]:
    """The committed checkpoints of a root, newest first.

    Raises:
        BadConfiguration: The root has none.
        NoValidCheckpoint: HEAD is damaged and cannot be rebuilt.
        StoreFailure: The store did not answer.
    """
    return _filled_head(store).committed


def entry_of(store: Store, step: int | None) -> CommittedStep:
    """The checkpoint of a step; None: the newest.

    Raises:
        BadConfiguration: The root has no such checkpoint.
        NoValidCheckpoint: HEAD is damaged and cannot be rebuilt.
        StoreFailure: The store did not answer.
    """
    head = _filled_head(store)
    for entry in head.committed:
        if step in (None, entry.step):
            return entry
    why = next((f" any more ({bad.reason})" for bad in reversed(head.bad) if bad.step == step), "")
    raise BadConfiguration(
        f"{store.root} has no checkpoint of step {step}{why}; there are "
        f"{', '.join(str(one.step) for one in head.committed)}"
    )


def _filled_head(store: Store) -> Head:
    head, _ = load_head(store)
    if head is None or not head.committed:
        raise BadConfiguration(f"{store.root} holds no checkpoint")
    return head


def _expect_checkpoint(head: Head | None, expected_step: int, root: str) -> None:
    if head is not None and head.committed:
        return
    if head is not None and head.bad:
        raise NoValidCheckpoint(
            f"no checkpoint in {root} verifies ({len(head.bad)} are damaged, the newest at step "
            f"{max(bad.step for bad in head.bad)}); restore the files from a backup, or give the run a new "
            "spec.checkpoint.root to begin again"
        )
    if expected_step > 0:
        raise NoValidCheckpoint(
            f"the run had a checkpoint at step {expected_step}, but {root} holds none; correct spec.checkpoint.root or "
            "restore its files, or give the run a new root to begin again"
        )


def _expect_same_run(store: Store, head: Head, fingerprints: Fingerprints) -> None:
    """Compare the run with the newest checkpoint whose manifest can be read. Only the restore checks the data."""
    for entry, manifest in readable(store, head.committed):
        then = manifest.fingerprints
        clauses = differences(_with_its_steps(fingerprints, then, entry.step, store.root), then)
        if clauses:
            raise RunChanged(sentence(clauses, entry.step, store.root))
        return


def _with_its_steps(now: Fingerprints, then: Fingerprints, done: int, root: str) -> Fingerprints:
    """The run's fingerprints with the checkpoint's number of steps, if the new number does not change the steps that
    are done.

    Raises:
        RunChanged: The new number would change them.
    """
    wanted, planned = planned_steps(now), planned_steps(then)
    if wanted is None or planned is None or wanted == planned:
        return now
    try:
        optimizer = OptimizerSpec.model_validate(now.documents["spec.optimizer"], by_alias=True)
        rehearsal = now.documents["spec.data"]["mixture"].get("simulateTokens") is not None
    except (KeyError, TypeError, AttributeError, ValueError):
        return now
    refusal = steps_refusal(optimizer, rehearsal=rehearsal, old=planned, new=wanted, done=done)
    if refusal is not None:
        raise RunChanged(f"the checkpoint at step {done} in {root} was made for {planned} steps: {refusal}")
    return with_steps(now, planned)


def same_root_everywhere(store: Store, writer: str) -> str:
    """Why this process does not see the root that process 0 has just taken; empty if it sees the same root.

    `STOPPED`: a preemption notice came while the store rejected the credentials.
    """
    try:
        data = store.read(HEAD_KEY).data
        head = decode_head(data) if data is not None else None
    except StoreFailure as failure:
        return STOPPED if failure.code == STOPPED else f"cannot read {HEAD_KEY}: {failure}"
    except DamagedDocument as damage:
        return str(damage)
    return "" if head is not None and head.writer == writer else f"sees {'another' if head else 'no'} {HEAD_KEY} there"


@dataclass(frozen=True)
class Listing:
    """The contents of a root."""

    head: Head | None
    """HEAD, rebuilt from the checkpoints if necessary; None if the root holds no checkpoint."""
    head_damage: str | None
    """Why HEAD itself could not be used."""
    committed: tuple[CommittedStep, ...]
    """Newest first."""
    bad: tuple[BadStep, ...]
    unfinished: tuple[str, ...]
    """Prefixes of checkpoints that are being written, are being deleted, or were given up."""
    older: int = 0
    """Number of older committed checkpoints that did not fit on the page."""


def list_checkpoints(spec: CheckpointSpec, *, limit: int | None = None, before: int | None = None) -> Listing:
    """List the contents of a root, or one page of them.

    Args:
        spec: The root.
        limit: Largest number of committed checkpoints, newest first. None: all.
        before: List only checkpoints of earlier steps. None: all.

    Raises:
        TrainerExit: The root cannot be read.
    """
    try:
        store = Store(spec)
        try:
            head, damage = load_head(store)
        except NoValidCheckpoint as error:
            head, damage = None, str(error)
        committed = head.committed if head else ()
        candidates = [entry for entry in committed if before is None or entry.step < before]
        page = tuple(candidates[:limit])
        older = len(candidates) - len(page)
        first, last = _first_of(page[-1].step) if older else FIRST, LAST if before is None else _first_of(before)
        bad = tuple(entry for entry in head.bad if first <= entry.path < last) if head is not None else ()
        unlisted = unlisted_prefixes(store, (*page, *bad), first, last)
    except StoreFailure as failure:
        raise as_exit(failure, spec.root) from None
    if head is None:
        return Listing(None, damage, (), (), unlisted)
    deleting = tuple(path for path in head.deleting if first <= path < last)
    return Listing(head, damage, page, bad, (*deleting, *unnamed(unlisted, head)), older)


def _first_of(step: int) -> str:
    """A key that sorts before all prefixes of a step and after the prefixes of earlier steps."""
    return step_prefix(step, 0, "")[: -len(".000000./")]
