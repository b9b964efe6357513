"""Copies one checkpoint into a fresh root and verifies it, so that another run can begin from it or an archive can keep
it.
"""

from collections.abc import Callable
from functools import partial

from halcyon.checkpoint.creating import commit_fresh
from halcyon.checkpoint.evidence import key_of, read_chain
from halcyon.checkpoint.opening import load_head
from halcyon.checkpoint.parts import in_parallel
from halcyon.checkpoint.rollback import until
from halcyon.checkpoint.verify import encode_commit, prefixes, read_file, read_manifest_bytes
from halcyon.host.errors import RootTaken
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.reading import copy_history
from halcyon_api import checkpoint_documents as documents
from halcyon_api.result_documents import TASKS_PREFIX, results_step

_BESIDE = (
    documents.TOKENIZERS_PREFIX,
    documents.HUGGING_FACE_PREFIX,
    documents.CHOICES_PREFIX,
    documents.ROLLOUTS_PREFIX,
)
"""What a root keeps beside its checkpoints, so that their model can be used, and their run goes on with the same
numbers.
"""


def copy_checkpoint(
    store: Store, entry: documents.CommittedStep, to: Store, *, owner: documents.Owner | None = None
) -> documents.Head:
    """Copy a checkpoint.

    HEAD is written last, by a compare-and-swap that requires that no HEAD exists: a killed copy leaves no checkpoint,
    and can be started again.

    Args:
        store: The root of the checkpoint.
        entry: Its entry in HEAD.
        to: A root without HEAD.
        owner: The run that may continue from the copy. Default: the run that made the checkpoint.

    Returns:
        HEAD of the new root.

    Raises:
        RootTaken: The new root already has a HEAD or another checkpoint.
        Damaged: A file is damaged.
        StoreFailure: A store did not answer.
    """
    before = to.read(documents.HEAD_KEY)
    if before.data is not None or any(prefix != entry.path for prefix in prefixes(to.list(documents.STEPS_PREFIX))):
        raise RootTaken(f"{to.root} holds checkpoints already; copy into a root that is empty")
    data, manifest = read_manifest_bytes(store, entry)

    def carry(file: documents.ManifestFile) -> None:
        to.write(f"{entry.path}{documents.DATA_PREFIX}{file.path}", read_file(store, entry.path, file))

    def carry_key(key: str) -> None:
        if (data := store.read(key).data) is not None:
            to.write(key, data)

    beside = [key for prefix in _BESIDE for key in store.list(prefix)]
    steps = {key: results_step(key) for key in store.list(TASKS_PREFIX)}
    beside += [key for key, step in steps.items() if step is not None and step <= entry.step]
    beside += [key_of(link.path) for link in read_chain(store, (entry,)).links]
    jobs: list[Callable[[], None]] = [partial(carry, file) for file in manifest.files]
    jobs += [partial(carry_key, key) for key in beside]
    in_parallel([*jobs, partial(copy_history, store, to, entry.step)])
    to.write(f"{entry.path}{documents.MANIFEST_KEY}", data)
    to.write(f"{entry.path}{documents.COMMIT_KEY}", encode_commit(data, entry.epoch))
    # Epoch 0.0: every run that takes the root has a later epoch.
    there, _ = load_head(store)
    past = until(there.skipped if there is not None else manifest.data_position.skipped, entry.step)
    head = documents.Head(
        owner=owner or manifest.owner, epoch=documents.Epoch(attempt=0, restart=0), committed=(entry,), skipped=past
    )
    commit_fresh(to, head, before.generation)
    return head
