"""What may become of HEAD, decided without I/O, and the one object that changes it.

HEAD's compare-and-swap is the moment of commit. A writer holds the root while HEAD names its epoch *and* its writer nonce: a newer
epoch takes the root from an older one, and of two processes of the same epoch (a pod that was made anew while the old one lingered) the
later takes it from the earlier. A writer that lost the root cannot change HEAD, because every change is a compare-and-swap from a HEAD
that named him.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from halcyon.checkpoint.retention import Retention, guarded
from halcyon.errors import Fenced, RootTaken
from halcyon.storage.failures import StoreFailure
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import HEAD_KEY, BadStep, CommittedStep, Epoch, Head, Owner, decode_head, encode_head


def take(head: Head | None, *, owner: Owner, epoch: Epoch | None, writer: str, root: str) -> Head:
    """The HEAD after a process took the root.

    Args:
        head: HEAD as it is; None where the root has none.
        owner: The run that wants it.
        epoch: Its epoch; None for a run outside a cluster, which takes the attempt after the last.
        writer: Nonce of the process.
        root: For the sentences.

    Raises:
        RootTaken: It belongs to another run.
        Fenced: A newer epoch has it.
    """
    if head is None:
        return Head(owner=owner, epoch=epoch or Epoch(attempt=1, restart=0), writer=writer, starts=1)
    if not head.owner.same_run(owner):
        raise RootTaken(
            f"checkpoint root {root} belongs to the run {head.owner.namespace}/{head.owner.name}, not to {owner.namespace}/{owner.name}; "
            "give each run a spec.checkpoint.root of its own"
        )
    if epoch is None:
        epoch = Epoch(attempt=head.epoch.attempt + 1, restart=0)
    if epoch < head.epoch:
        raise _fenced(head, epoch, root)
    return head.model_copy(update={"owner": owner, "epoch": epoch, "writer": writer, "starts": head.starts + 1})


def _fenced(head: Head, epoch: Epoch, root: str) -> Fenced:
    newer = "epoch" if epoch < head.epoch else "process of epoch"
    return Fenced(
        f"checkpoint root {root} was taken by the newer {newer} {head.epoch}, so this process of epoch {epoch} may not write there any "
        "more; let the newer one run",
        head.epoch.attempt,
    )


def with_commit(head: Head, entry: CommittedStep, retention: Retention) -> Head:
    """HEAD after a commit: what `retention`, pins and `guarded` keep stays, the others' deletion begins.

    An older checkpoint of the very same step is superseded: it holds the same numbers, and `keep` should mean that many different steps.
    """
    others = [other for other in head.committed if other.step != entry.step or other.path in head.pinned]
    ordered = sorted([entry, *others], key=lambda one: (one.step, one.epoch.attempt, one.epoch.restart), reverse=True)
    stays = guarded(ordered) | set(head.pinned)
    kept = [one for number, one in enumerate(ordered) if one.path in stays or retention.keeps(number, one.step)]
    paths = {one.path for one in kept}
    dropped = tuple(one.path for one in head.committed if one.path not in paths)
    return head.model_copy(update={"committed": tuple(kept), "deleting": (*head.deleting, *dropped)})


def with_reading(head: Head, every_saves: int) -> Head:
    """HEAD after the commit of its newest checkpoint was counted: it is to be read back if it is the turn of one.

    Args:
        head: After the commit.
        every_saves: The number of commits after which it is; 0: never.
    """
    newest = head.newest
    if every_saves == 0 or newest is None or head.unread_saves + 1 < every_saves:
        return head.model_copy(update={"unread_saves": head.unread_saves + 1})
    wanted = newest.model_copy(update={"verification": "wanted"})
    return head.model_copy(update={"committed": (wanted, *head.committed[1:]), "unread_saves": 0})


def with_passed(head: Head, path: str) -> Head:
    """HEAD after every byte of a checkpoint was read back and was right."""
    passed = tuple(one.model_copy(update={"verification": "passed"}) if one.path == path else one for one in head.committed)
    return head.model_copy(update={"committed": passed})


def with_failed(head: Head, bad: BadStep) -> Head:
    """HEAD after a checkpoint was read back and is damaged; unchanged where it is being deleted, for then its files may be gone."""
    return with_bad(head, (bad,)) if any(one.path == bad.path for one in head.committed) else head


def with_up_time(head: Head, milliseconds: int) -> Head:
    """HEAD after the run has been up for so much more time."""
    return head.model_copy(update={"up_milliseconds": head.up_milliseconds + milliseconds})


def with_bad(head: Head, bad: Iterable[BadStep]) -> Head:
    """HEAD after checkpoints did not verify: they are no candidates any more, and their files stay."""
    bad = tuple(bad)
    paths = {one.path for one in bad}
    return head.model_copy(
        update={
            "committed": tuple(one for one in head.committed if one.path not in paths),
            "bad": (*(one for one in head.bad if one.path not in paths), *bad),
        }
    )


def with_pin(head: Head, path: str) -> Head:
    """HEAD after a checkpoint was pinned: no commit begins its deletion any more.

    Raises:
        KeyError: HEAD does not list it as committed.
    """
    if path not in {one.path for one in head.committed}:
        raise KeyError(path)
    return head if path in head.pinned else head.model_copy(update={"pinned": (*head.pinned, path)})


def without_pin(head: Head, path: str) -> Head:
    """HEAD after a pin was taken out: the next commit treats the checkpoint like any other."""
    return head.model_copy(update={"pinned": tuple(pin for pin in head.pinned if pin != path)})


def without_deleted(head: Head, paths: Iterable[str]) -> Head:
    """HEAD after the deletion of these prefixes is complete."""
    done = set(paths)
    return head.model_copy(update={"deleting": tuple(path for path in head.deleting if path not in done)})


class HeadKeeper:
    """HEAD in the hands of the process that took the root.

    Used by the main thread until the first save, then by the one that saves and the one that reads checkpoints back.
    """

    def __init__(self, store: Store, head: Head, generation: bytes) -> None:
        self._store = store
        self.head = head
        """As last written or read."""
        self._generation = generation
        self._lock = threading.RLock()
        self._epoch = head.epoch
        self._writer = head.writer

    def update(self, change: Callable[[Head], Head]) -> Head:
        """Change HEAD by compare-and-swap.

        Raises:
            Fenced: Another epoch or process has the root.
            DamagedDocument: HEAD was damaged meanwhile.
            StoreFailure: The store failed; HEAD may or may not have changed, and the next update finds out.
        """
        with self._lock:
            return self._update(change)

    def _update(self, change: Callable[[Head], Head]) -> Head:
        wanted = change(self.head)
        if wanted == self.head:
            return wanted
        data = encode_head(wanted)
        generation = self._store.swap(HEAD_KEY, data, self._generation)
        if generation is None:
            # Lost: to another writer, or to an earlier try of ours whose answer was lost on the way.
            present = self._store.read(HEAD_KEY)
            if present.data != data:
                self._judge(present.data)
                self._generation = present.generation
                return self._update(change)
            generation = present.generation
        self.head, self._generation = wanted, generation
        return wanted

    def refresh(self) -> Head:
        """Read HEAD and see that the root is still ours.

        Raises:
            Fenced: It is not.
            DamagedDocument: It cannot be read.
        """
        with self._lock:
            present = self._store.read(HEAD_KEY)
            self._judge(present.data)
            self._generation = present.generation
            return self.head

    def is_unchanged(self) -> bool:
        """Whether HEAD is known to be as it was last written or read."""
        with self._lock:
            try:
                return self._store.read(HEAD_KEY).generation == self._generation
            except StoreFailure:
                return False

    def _judge(self, data: bytes | None) -> None:
        self.head = see_ours(decode_head(data or b""), self._epoch, self._writer, self._store.root)


def edit(store: Store, change: Callable[[Head], Head]) -> Head:
    """Change HEAD from outside, beside the owner of the root: epoch and writer stay, and the writer's next change takes this one up.

    Raises:
        DamagedDocument: There is no HEAD, or it cannot be read.
        StoreFailure: The store did not answer.
    """
    while True:
        present = store.read(HEAD_KEY)
        head = decode_head(present.data or b"")
        wanted = change(head)
        if wanted == head or store.swap(HEAD_KEY, encode_head(wanted), present.generation) is not None:
            return wanted


def see_ours(head: Head, epoch: Epoch, writer: str, root: str) -> Head:
    """Return HEAD if it still names this epoch and writer.

    Raises:
        Fenced: It names another.
    """
    if (head.epoch, head.writer) != (epoch, writer):
        raise _fenced(head, epoch, root)
    return head
