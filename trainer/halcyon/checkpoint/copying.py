"""Copies one checkpoint into a fresh root, verified on the way, so that another run can begin from it or an archive can keep it."""

from __future__ import annotations

from collections.abc import Callable

from halcyon.checkpoint.parts import in_parallel
from halcyon.checkpoint.verify import encode_commit, prefixes, read_file, read_manifest_bytes
from halcyon.errors import RootTaken
from halcyon.storage.store import Store
from halcyon_api.checkpoint_documents import (
    COMMIT_KEY,
    DATA_PREFIX,
    HEAD_KEY,
    MANIFEST_KEY,
    STEPS_PREFIX,
    CommittedStep,
    Epoch,
    Head,
    ManifestFile,
    Owner,
    encode_head,
)


def copy_checkpoint(store: Store, entry: CommittedStep, to: Store, *, owner: Owner | None = None) -> Head:
    """Copy a checkpoint.

    HEAD is written last, by a compare-and-swap from nothing: a copy that was killed leaves no checkpoint, and can be started again.

    Args:
        store: The root it is in.
        entry: Its entry there.
        to: A root without a HEAD.
        owner: The run that may go on from it. Default: the one that made it.

    Returns:
        HEAD of the new root.

    Raises:
        RootTaken: The other root has a HEAD already.
        Damaged: A file is not what was written.
        StoreFailure: A store did not answer.
    """
    before = to.read(HEAD_KEY)
    if before.data is not None or any(prefix != entry.path for prefix in prefixes(to.list(STEPS_PREFIX))):
        raise RootTaken(f"{to.root} holds checkpoints already; copy into a root that is empty")
    data, manifest = read_manifest_bytes(store, entry)

    def carry(file: ManifestFile) -> None:
        to.write(f"{entry.path}{DATA_PREFIX}{file.path}", read_file(store, entry.path, file))

    jobs: list[Callable[[], None]] = [lambda file=file: carry(file) for file in manifest.files]
    in_parallel(jobs)
    to.write(f"{entry.path}{MANIFEST_KEY}", data)
    to.write(f"{entry.path}{COMMIT_KEY}", encode_commit(data, entry.epoch))
    # Epoch 0.0: whichever run takes the root has a later one.
    head = Head(owner=owner or manifest.owner, epoch=Epoch(attempt=0, restart=0), committed=(entry,))
    if to.swap(HEAD_KEY, encode_head(head), before.generation) is None:
        raise RootTaken(f"{to.root} was taken by a run meanwhile; what was copied lies below {to.root}/{STEPS_PREFIX} and is not used")
    return head
