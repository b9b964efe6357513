"""Makes a checkpoint of arrays that no run has computed, such as imported weights, so that a run can begin from it.

The arrays are read and written in chunks, several at a time, so the whole state is never in memory.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from halcyon.checkpoint.codec import Codecs
from halcyon.checkpoint.collect import delete_checkpoint
from halcyon.checkpoint.commit import versions
from halcyon.checkpoint.fingerprints import fingerprints_of
from halcyon.checkpoint.layout import Indices, Region, chunk_path, chunk_region, chunks_of, metadata_path
from halcyon.checkpoint.parts import in_parallel, write_file
from halcyon.checkpoint.verify import describe_commit, encode_commit, prefixes
from halcyon.host.errors import RootTaken
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import (
    COMMIT_KEY,
    HEAD_KEY,
    MANIFEST_KEY,
    STEPS_PREFIX,
    CommittedStep,
    DataPosition,
    Epoch,
    Head,
    Manifest,
    ManifestFile,
    ManifestLeaf,
    Owner,
    canonical_json,
    encode_head,
    step_prefix,
)

_EPOCH = Epoch(attempt=0, restart=0)
"""Every run that takes the root has a later epoch."""
_NONCE = "created"
"""How the names of all checkpoints begin that this module makes."""


def create_checkpoint(
    to: Store,
    leaves: Sequence[ManifestLeaf],
    read: Callable[[ManifestLeaf, Region], np.ndarray],
    *,
    owner: Owner,
    documents: Mapping[str, Any],
    vocabulary: int,
    positions: int,
    time: str,
    before_commit: Callable[[], object] = lambda: None,
) -> CommittedStep:
    """Write a checkpoint of step 0 into a fresh root and commit it.

    HEAD is written last, by a compare-and-swap that requires that no HEAD exists: a killed process leaves no
    checkpoint, and the work can be started again.

    Args:
        to: A root without HEAD.
        leaves: The arrays, with the chunks to write.
        read: Reads a region of an array. Called in several threads.
        owner: The run to which the root belongs.
        documents: The sections to record, by name.
        vocabulary: Tokens of the model, without padding.
        positions: Longest sequence of the model, in tokens.
        time: The time of the commit.
        before_commit: Writes what belongs to the root beside the checkpoint.

    Raises:
        RootTaken: The root already holds checkpoints.
        StoreFailure: The store did not answer.
    """
    prefix = step_prefix(0, _EPOCH.attempt, f"{_NONCE}-{secrets.token_hex(4)}")
    before = to.read(HEAD_KEY)
    others, ours = prefixes(to.list(STEPS_PREFIX)), step_prefix(0, _EPOCH.attempt, _NONCE).rstrip("/")
    if before.data is not None or not all(other.startswith(ours) for other in others):
        raise RootTaken(f"{to.root} holds checkpoints already; give a root that is empty")
    for other in others:
        delete_checkpoint(to, other)  # of a killed process
    codecs = Codecs()

    def metadata(leaf: ManifestLeaf) -> ManifestFile:
        return write_file(to, prefix, metadata_path(leaf), (codecs.of(leaf).metadata(),))

    def chunk(leaf: ManifestLeaf, indices: Indices) -> ManifestFile:
        values = read(leaf, chunk_region(leaf, indices))
        return write_file(to, prefix, chunk_path(leaf, indices), codecs.of(leaf).encode(indices, values))

    jobs: list[Callable[[], ManifestFile]] = []
    for leaf in leaves:
        jobs += [partial(metadata, leaf), *(partial(chunk, leaf, indices) for indices in chunks_of(leaf))]
    files = in_parallel(jobs)
    before_commit()
    manifest = Manifest(
        step=0,
        epoch=_EPOCH,
        owner=owner,
        process_count=1,
        leaves=tuple(leaves),
        files=tuple(sorted(files, key=lambda file: file.path)),
        fingerprints=fingerprints_of(documents),
        data_position=DataPosition(step=0, sequences=0, tokens=0),
        seed=0,
        versions=versions(),
        mesh={},
        time=time,
        vocabulary=vocabulary,
        positions=positions,
    )
    data = canonical_json(manifest.document())
    to.write(f"{prefix}{MANIFEST_KEY}", data)
    to.write(f"{prefix}{COMMIT_KEY}", encode_commit(data, _EPOCH))
    entry = describe_commit(prefix, data, manifest)
    commit_fresh(to, Head(owner=owner, epoch=_EPOCH, committed=(entry,)), before.generation)
    return entry


def commit_fresh(to: Store, head: Head, generation: bytes) -> None:
    """Write the first HEAD of a root.

    Args:
        to: The root.
        head: HEAD. It names one checkpoint, which no other writer has.
        generation: Generation of the missing HEAD.

    Raises:
        RootTaken: Another writer was first.
    """
    data = encode_head(head)
    # The store may have written HEAD although its answer was lost; its retry then finds another generation.
    if to.swap(HEAD_KEY, data, generation) is None and to.read(HEAD_KEY).data != data:
        unused = f"{to.root}/{head.committed[0].path}"
        raise RootTaken(f"{to.root} was taken by a run meanwhile; the files below {unused} are not used")
