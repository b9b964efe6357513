"""The changes of HEAD as pure functions, and the object that writes HEAD.

The compare-and-swap of HEAD is the commit. A writer has the root while HEAD names its epoch *and* its writer nonce. A
newer epoch takes the root from an older one. Of two processes of the same epoch (a pod was recreated while the old one
was still running) the later takes it from the earlier. A writer that lost the root cannot change HEAD, because every
change is a compare-and-swap from a HEAD that named this writer.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterable

from halcyon.checkpoint.retention import Retention, kept_as_best, kept_for_verification
from halcyon.host.errors import Fenced, PodsLost, RootTaken
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store, Value
from halcyon_api.checkpoint_documents import (
    COPIES_PREFIX,
    HEAD_KEY,
    BadStep,
    CommittedStep,
    DamagedDocument,
    Epoch,
    Head,
    Owner,
    decode_head,
    encode_head,
)

_LONGEST_REASON = 1024


def take(
    head: Head | None,
    *,
    owner: Owner,
    epoch: Epoch | None,
    writer: str,
    root: str,
    earlier: Collection[str] | None = None,
) -> Head:
    """HEAD after a process took the root.

    Args:
        head: The present HEAD; None if the root has none.
        owner: The run that takes the root.
        epoch: Epoch of the run; None outside a cluster: that of the earlier starts, else the attempt after the last
            one.
        writer: Nonce of the process.
        root: Address of the root, for error messages.
        earlier: The nonces of the earlier starts in the same pods; None: processes do not start again in their pods.
            If there are any, another writer of this epoch is one of pods that have replaced these; if there are none,
            one of pods that were all lost.

    Raises:
        RootTaken: The root belongs to another run.
        Fenced: A newer epoch has the root, or newer pods have.
        PodsLost: All pods before these were lost.
    """
    if head is None:
        return Head(owner=owner, epoch=epoch or Epoch(attempt=1, restart=0), writer=writer, starts=1)
    if not head.owner.same_run(owner):
        raise RootTaken(
            f"checkpoint root {root} belongs to the run {head.owner.namespace}/{head.owner.name}, not to "
            f"{owner.namespace}/{owner.name}; give each run a spec.checkpoint.root of its own"
        )
    if epoch is None:
        epoch = head.epoch if earlier else Epoch(attempt=head.epoch.attempt + 1, restart=0)
    other_pods = earlier is not None and epoch == head.epoch and head.writer not in {*earlier, writer}
    if other_pods and not earlier:
        raise PodsLost(f"all pods of start {epoch} were lost at once, so the next start replaces these")
    if epoch < head.epoch or other_pods:
        raise _fenced(head, epoch, root)
    return head.but(owner=owner, epoch=epoch, writer=writer, starts=head.starts + 1)


def _fenced(head: Head, epoch: Epoch, root: str) -> Fenced:
    newer = "start" if epoch < head.epoch else "process of start"
    return Fenced(
        f"checkpoint root {root} was taken by the newer {newer} {head.epoch} of the run, so this process of start "
        f"{epoch} may not write there any more; let the newer one run",
        head.epoch.attempt,
    )


def with_commit(head: Head, entry: CommittedStep, retention: Retention) -> Head:
    """HEAD after a commit. Checkpoints stay that `retention`, a pin, `kept_for_verification` or `kept_as_best` keeps.
    The deletion of the others begins.

    An older checkpoint of the same step is superseded: it holds the same numbers, and ``keep`` counts different steps.
    """
    others = [other for other in head.committed if other.step != entry.step or other.path in head.pinned]
    ordered = sorted([entry, *others], key=lambda one: (one.step, one.epoch), reverse=True)
    stays = kept_for_verification(ordered) | kept_as_best(ordered, retention.newest) | set(head.pinned)
    kept = [one for number, one in enumerate(ordered) if one.path in stays or retention.keeps(number, one.step)]
    paths = {entry.path for entry in kept}
    dropped = tuple(entry.path for entry in head.committed if entry.path not in paths)
    return head.but(committed=tuple(kept), deleting=(*head.deleting, *dropped))


def with_read_back_mark(head: Head, every_saves: int) -> Head:
    """HEAD after its newest commit was counted. Every `every_saves` commits, the newest checkpoint is marked to be read
    back.

    Args:
        head: HEAD after the commit.
        every_saves: The number of commits between two marks; 0: no marks.
    """
    newest = head.newest
    if every_saves == 0 or newest is None or head.unread_saves + 1 < every_saves:
        return head.but(unread_saves=head.unread_saves + 1)
    wanted = newest.but(verification="wanted")
    return head.but(committed=(wanted, *head.committed[1:]), unread_saves=0)


def with_verified(head: Head, path: str) -> Head:
    """HEAD after a checkpoint was read back and every byte was correct."""
    passed = tuple(entry.but(verification="passed") if entry.path == path else entry for entry in head.committed)
    return head.but(committed=passed)


def with_damage(head: Head, bad: BadStep) -> Head:
    """HEAD after a read-back found damage; unchanged if the checkpoint is being deleted, because then files may be
    missing.
    """
    return with_bad(head, (bad,)) if any(entry.path == bad.path for entry in head.committed) else head


def bad_step(entry: CommittedStep, reason: str) -> BadStep:
    """The entry of HEAD for a checkpoint that did not verify."""
    return BadStep(path=entry.path, step=entry.step, reason=reason[:_LONGEST_REASON])


def with_bad(head: Head, bad: Iterable[BadStep]) -> Head:
    """HEAD after checkpoints did not verify: they are no longer candidates for a restore, and their files stay."""
    bad = tuple(bad)
    paths = {entry.path for entry in bad}
    return head.but(
        committed=tuple(entry for entry in head.committed if entry.path not in paths),
        bad=(*(entry for entry in head.bad if entry.path not in paths), *bad),
    )


def with_pin(head: Head, path: str) -> Head:
    """HEAD after a checkpoint was pinned: no commit deletes it.

    Raises:
        KeyError: HEAD does not list it as committed.
    """
    if path not in {entry.path for entry in head.committed}:
        raise KeyError(path)
    return head if path in head.pinned else head.but(pinned=(*head.pinned, path))


def without_pin(head: Head, path: str) -> Head:
    """HEAD after a pin was removed: the next commit treats the checkpoint like any other."""
    return head.but(pinned=tuple(pin for pin in head.pinned if pin != path))


def without_deleted(head: Head, paths: Iterable[str]) -> Head:
    """HEAD after the deletion of these prefixes is complete."""
    done = set(paths)
    return head.but(deleting=tuple(path for path in head.deleting if path not in done))


def copy_key(writer: str) -> str:
    """Where a writer keeps its copy of HEAD."""
    return f"{COPIES_PREFIX}{writer}.json"


def copies(store: Store) -> dict[str, Head]:
    """The copies of HEAD that can be read, by key.

    Each is written before HEAD, by the only process that may write HEAD then. So nothing has left HEAD that is still in
    the copy of its last writer, which has the most `starts`.
    """
    found: dict[str, Head] = {}
    for key in store.list(COPIES_PREFIX):
        with contextlib.suppress(DamagedDocument):
            found[key] = decode_head(store.read(key).data or b"")
    return found


class HeadKeeper:
    """Reads and writes HEAD in the process that has the root.

    The main thread uses it until the first save, then the thread that saves and the thread that reads checkpoints back.
    """

    def __init__(self, store: Store, head: Head, generation: bytes) -> None:
        self._store = store
        self.head = head
        """HEAD as it was last written or read."""
        self._generation = generation
        self._lock = threading.RLock()

    def update(self, change: Callable[[Head], Head]) -> Head:
        """Change HEAD by compare-and-swap.

        Raises:
            Fenced: Another epoch or process has the root.
            DamagedDocument: HEAD was damaged in the meantime.
            StoreFailure: The store failed. HEAD may or may not have changed; the next update detects which.
        """
        with self._lock:
            wanted = change(self.head)
            if wanted == self.head:
                return wanted
            data = encode_head(wanted)
            self._store.write(copy_key(wanted.writer), data)
            generation = self._store.swap(HEAD_KEY, data, self._generation)
            if generation is None:
                # The swap failed: another writer was first, or our own first try succeeded and its answer was lost.
                present = self._store.read(HEAD_KEY)
                if present.data != data:
                    self._take_over(present)
                    return self.update(change)
                generation = present.generation
            self.head, self._generation = wanted, generation
            return wanted

    def refresh(self) -> Head:
        """Read HEAD and check that this process still has the root.

        Raises:
            Fenced: Another epoch or process has the root.
            DamagedDocument: HEAD cannot be read.
        """
        with self._lock:
            self._take_over(self._store.read(HEAD_KEY))
            return self.head

    def is_unchanged(self) -> bool:
        """Whether HEAD is as it was last written or read; False if the store does not answer."""
        with self._lock:
            try:
                return self._store.read(HEAD_KEY).generation == self._generation
            except StoreFailure:
                return False

    def _take_over(self, present: Value) -> None:
        self.head = check_ours(decode_head(present.data or b""), self.head.epoch, self.head.writer, self._store.root)
        self._generation = present.generation


def edit(store: Store, change: Callable[[Head], Head]) -> Head:
    """Change HEAD in a process that does not have the root. Epoch and writer stay; the writer applies its next change
    to this HEAD.

    Raises:
        DamagedDocument: There is no HEAD, or it cannot be read.
        StoreFailure: The store did not answer.
    """
    while True:
        present = store.read(HEAD_KEY)
        if present.data is None:
            raise DamagedDocument("HEAD is missing")
        head = decode_head(present.data)
        key, wanted = copy_key(head.writer), change(head)
        data, copy = encode_head(wanted), store.read(key)
        if wanted == head:
            return wanted
        if store.swap(HEAD_KEY, data, present.generation) is not None:
            store.swap(key, data, copy.generation)  # fails if the writer has begun a change, which it must try again
            return wanted


def check_ours(head: Head, epoch: Epoch, writer: str, root: str) -> Head:
    """Return HEAD if it still names this epoch and writer.

    Raises:
        Fenced: HEAD names another epoch or writer.
    """
    if (head.epoch, head.writer) != (epoch, writer):
        raise _fenced(head, epoch, root)
    return head
