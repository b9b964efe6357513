"""Arrays that a run hands to processes beside it, by files of its root: no checkpoint, because no run resumes from
them.

Each process writes its part, as of a checkpoint. Then process 0 writes a record with the hash of each file, so a reader
sees all of the arrays or none, in any sharding.
"""

import json
from functools import partial
from typing import Any, TypeVar

from halcyon.checkpoint.parts import decode_report, encode_report, write_files
from halcyon.checkpoint.processes import Agreement, Processes, decide, gather_bytes
from halcyon.checkpoint.reader import match_leaves, read_arrays
from halcyon.checkpoint.snapshot import Snapshotter
from halcyon.checkpoint.verify import Damaged, read_file
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import DamagedDocument, Document, ManifestFile, ManifestLeaf, canonical_json


class Published(Document):
    """A record of arrays. A subclass may say more about them."""

    prefix: str
    """Where their files are; it ends with a slash."""
    leaves: tuple[ManifestLeaf, ...] = ()
    files: tuple[ManifestFile, ...] = ()


Record = TypeVar("Record", bound=Published)


def publish(
    store: Store, key: str, tree: Any, about: Published, processes: Processes, snapshotter: Snapshotter
) -> None:
    """Write arrays. A collective, for the main thread.

    Args:
        store: The root.
        key: Key of the record.
        tree: The arrays.
        about: The record without leaves and files.
        processes: The processes that hold the arrays.
        snapshotter: Copies them; it keeps its memory for the next ones.

    Raises:
        TrainerExit: The store did not answer.
    """
    snapshot = snapshotter.take(tree)
    mine: list[ManifestFile] = []

    def write() -> tuple[int, ...]:
        mine.extend(write_files(store, about.prefix, snapshot))
        return ()

    Agreement(processes, store.root, 0)(write)
    every = gather_bytes(processes, canonical_json([file.document() for file in mine]))
    files = [ManifestFile.model_validate_json(json.dumps(file)) for part in every for file in json.loads(part)]

    def keep() -> dict[str, Any]:
        record = about.but(leaves=snapshot.leaves, files=tuple(sorted(files, key=lambda file: file.path)))
        store.write(key, encode_report(record))
        return {}

    decide(processes, store.root, keep)


def record_of(store: Store, key: str, kind: type[Record]) -> Record | None:
    """A record; None if there is none.

    Raises:
        Damaged: It is damaged.
        StoreFailure: The store did not answer.
    """
    data = store.read(key).data
    try:
        return None if data is None else decode_report(kind, data)
    except DamagedDocument as damage:
        raise Damaged(f"{key}: {damage}") from None


def read_published(store: Store, record: Published, template: Any, processes: Processes) -> Any:
    """Read arrays into the shardings of a template. A collective, for the main thread.

    Args:
        store: The root.
        record: Their record, the same on every process.
        template: Tree of ``jax.ShapeDtypeStruct`` with shardings.
        processes: The processes that read them.

    Raises:
        Damaged: A file is missing or damaged.
        RunChanged: They are not those of the template.
        TrainerExit: The store did not answer.
    """
    return read_arrays(
        template,
        Agreement(processes, store.root, 0),
        lambda: (match_leaves(record.leaves, template, cast=False, part=False, spare=None), record.files),
        partial(read_file, store, record.prefix),
        is_shared=False,
    )
