"""Verifies checkpoints, and rebuilds a lost HEAD from them.

The hashes form a chain: HEAD has its own hash and the hash of each manifest; COMMIT repeats the hash of the manifest;
the manifest has the size and hash of every file. A file is valid only if the whole chain is, so a flipped bit, a
truncated, a missing or an exchanged file is always detected.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from pydantic import ValidationError

from halcyon.checkpoint.evidence import hash_of, link_of
from halcyon.checkpoint.head import copies, with_bad
from halcyon.checkpoint.layout import expected_files
from halcyon.checkpoint.parts import in_parallel
from halcyon.host.storage.store import Store
from halcyon_api.checkpoint_documents import (
    COMMIT_KEY,
    DATA_PREFIX,
    MANIFEST_KEY,
    STEPS_PREFIX,
    BadStep,
    Commit,
    CommittedStep,
    Epoch,
    Head,
    Manifest,
    ManifestFile,
    canonical_json,
)

_LONGEST_REASON = 200
_PREFIX = re.compile(rf"^{STEPS_PREFIX}(\d{{12,}})\.(\d{{6,}})\.([0-9A-Za-z-]+)/")


class Damaged(Exception):
    """A checkpoint differs from what was written; the message describes the damage."""


class OtherState(Exception):
    """The arrays of the checkpoint are not those of the template; the message names one that differs."""


def encode_commit(manifest: bytes, epoch: Epoch) -> bytes:
    """The COMMIT mark of a manifest."""
    return canonical_json(Commit(manifest_sha256=_sha256(manifest), epoch=epoch).document())


def read_manifest(store: Store, entry: CommittedStep) -> Manifest:
    """Read the manifest of a checkpoint that HEAD lists, and check it against HEAD and COMMIT.

    Raises:
        Damaged: HEAD, MANIFEST.json and COMMIT do not match.
        StoreFailure: The store did not answer.
    """
    return read_manifest_bytes(store, entry)[1]


def read_manifest_bytes(store: Store, entry: CommittedStep) -> tuple[bytes, Manifest]:
    """Like `read_manifest`; also returns the bytes that were hashed."""
    data, mark = (store.read(f"{entry.path}{key}").data for key in (MANIFEST_KEY, COMMIT_KEY))
    if data is None:
        raise Damaged("MANIFEST.json is missing")
    if _sha256(data) != entry.manifest_sha256:
        raise Damaged("MANIFEST.json does not have the hash that HEAD names")
    if mark != encode_commit(data, entry.epoch):
        raise Damaged("COMMIT is missing or does not name the manifest")
    manifest = _parse(data)
    if (manifest.step, manifest.epoch) != (entry.step, entry.epoch):
        raise Damaged(f"MANIFEST.json is of step {manifest.step}, HEAD says {entry.step}")
    if (link := link_of(entry.path, manifest)) is not None and hash_of(link) != entry.link:
        raise Damaged("MANIFEST.json does not have the link that HEAD names")
    return data, manifest


def _parse(data: bytes) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise Damaged(f"MANIFEST.json cannot be read: {error.errors()[0]['msg']}") from None
    if expected_files(manifest.leaves) != {file.path for file in manifest.files}:
        raise Damaged("MANIFEST.json does not list the files that its arrays need")
    return manifest


def readable(store: Store, entries: Iterable[CommittedStep]) -> Iterator[tuple[CommittedStep, Manifest]]:
    """The checkpoints whose manifest can be read, with it.

    Raises:
        StoreFailure: The store did not answer.
    """
    for entry in entries:
        with contextlib.suppress(Damaged):
            yield entry, read_manifest(store, entry)


def read_file(store: Store, prefix: str, file: ManifestFile) -> bytes:
    """Read one whole file of a checkpoint, and check it.

    Raises:
        Damaged: The file is missing, or differs from the manifest.
        StoreFailure: The store did not answer.
    """
    data = store.read(f"{prefix}{DATA_PREFIX}{file.path}").data
    if data is None:
        raise Damaged(f"data/{file.path} is missing")
    if len(data) != file.size_bytes:
        raise Damaged(f"data/{file.path} has {len(data)} bytes instead of {file.size_bytes}")
    if _sha256(data) != file.sha256:
        raise Damaged(f"data/{file.path} does not have the hash that the manifest names")
    return data


def damage_of(read: Callable[[], object]) -> str | None:
    """The damage that a read finds; None if it finds none."""
    try:
        read()
    except Damaged as damage:
        return str(damage)
    return None


def find_damage(store: Store, entry: CommittedStep) -> tuple[str, ...]:
    """Read a whole checkpoint and return its damage, one sentence for each fault; empty if it is intact."""
    try:
        data, manifest = read_manifest_bytes(store, entry)
    except Damaged as damage:
        return (str(damage),)
    if describe_commit(entry.path, data, manifest) != entry.but(verification=None):
        return ("HEAD does not say of it what MANIFEST.json says",)

    jobs: list[Callable[[], str | None]] = [
        lambda file=file: damage_of(lambda: read_file(store, entry.path, file)) for file in manifest.files
    ]
    return tuple(damage for damage in in_parallel(jobs) if damage)


def prefixes(keys: Iterable[str]) -> tuple[str, ...]:
    """The checkpoint prefixes of keys, sorted. Other keys belong to other software and are ignored."""
    return tuple(sorted({match[0] for key in keys if (match := _PREFIX.match(key))}))


def rebuild_head(store: Store) -> tuple[Head | None, tuple[BadStep, ...]]:
    """A HEAD for a root whose HEAD is lost: its last copy, with the checkpoints that are still there.

    A COMMIT that HEAD never listed, of a writer that was killed or fenced, does not count. Without a copy it does,
    because it is a complete checkpoint of the same run. What has left HEAD counts in neither case: the copy says so,
    and its COMMIT mark (`mark_left`). The epoch is the newest in all prefixes.

    Returns:
        HEAD; None if there is no copy and no checkpoint, then with those whose MANIFEST and COMMIT do not fit.
    """
    listed = prefixes(store.list(STEPS_PREFIX) if store.folder is None else store.folders(STEPS_PREFIX))
    entries: list[tuple[CommittedStep, Manifest]] = []
    bad: dict[str, BadStep] = {}
    for prefix in listed:
        data, mark = (store.read(f"{prefix}{key}").data or b"" for key in (MANIFEST_KEY, COMMIT_KEY))
        if not mark:
            continue
        try:
            manifest = _parse(data)
            if mark != encode_commit(data, manifest.epoch):
                raise Damaged("COMMIT does not name the manifest")
            entries.append((describe_commit(prefix, data, manifest), manifest))
        except Damaged as damage:
            bad[prefix] = _left(prefix, mark, str(damage))
    known = max(
        (copy for copy in copies(store).values() if not copy.named.isdisjoint(listed)),
        key=lambda copy: copy.starts,
        default=None,
    )
    if known is not None:
        named = {entry.path: entry for entry in known.committed}
        entries = [
            (named.get(entry.path, entry), manifest)
            for entry, manifest in entries
            if entry.path in named or known.epoch < entry.epoch
        ]
        for path in named.keys() - {entry.path for entry, _ in entries}:
            lost = BadStep(path=path, step=named[path].step, reason="COMMIT is missing")
            known = with_bad(known, [bad.get(path, lost)])
    elif not entries:
        return None, tuple(bad.values())
    entries.sort(key=lambda one: (one[0].step, one[0].epoch), reverse=True)
    if known is None:
        newest, manifest = entries[0]
        known = Head(owner=manifest.owner, epoch=newest.epoch, bad=tuple(bad.values()))
    if entries and entries[0][0].path not in known.named:
        # There is no copy, or it is of an earlier start, and the last one is lost too.
        known = known.but(skipped=entries[0][1].data_position.skipped)
    epochs = [known.epoch, *(entry.epoch for entry, _ in entries)] + [
        Epoch(attempt=int(prefix.split(".")[1]), restart=0) for prefix in listed
    ]
    return known.but(epoch=max(epochs), committed=tuple(entry for entry, _ in entries)), ()


def _left(prefix: str, mark: bytes, damage: str) -> BadStep:
    """The entry of ``HEAD.bad`` for a checkpoint without a valid COMMIT: its mark says why it left HEAD, or it is
    damaged.
    """
    try:
        reason = BadStep.model_validate_json(mark).reason
    except ValidationError:
        reason = damage
    return BadStep(path=prefix, step=int(prefix.split("/")[1].split(".")[0]), reason=reason)


def none_verifies(root: str, tried: Sequence[BadStep], older: Sequence[CommittedStep]) -> str:
    """The error message for a restore that found only damaged checkpoints.

    Args:
        root: Address of the root.
        tried: Checkpoints that were tried and do not verify, newest first.
        older: Checkpoints that were not tried, newest first.
    """
    reasons = "; ".join(f"step {bad.step}: {bad.reason[:_LONGEST_REASON]}" for bad in tried)
    if not older:
        return (
            f"none of the {len(tried)} checkpoints in {root} verifies ({reasons}); restore the files from a backup, or "
            "give the run a new spec.checkpoint.root to begin again"
        )
    return (
        f"none of the {len(tried)} newest checkpoints in {root} verifies ({reasons}), and a run does not go further "
        f"back by itself; restore the files from a backup, or copy an older one, such as step {older[0].step}, to a "
        "root of its own (halcyon checkpoints copy) and set spec.checkpoint.root to that"
    )


def describe_commit(prefix: str, data: bytes, manifest: Manifest) -> CommittedStep:
    """The entry of HEAD for a checkpoint whose manifest is `data`."""
    return CommittedStep(
        step=manifest.step,
        epoch=manifest.epoch,
        path=prefix,
        manifest_sha256=_sha256(data),
        size_bytes=sum(file.size_bytes for file in manifest.files) + len(data),
        time=manifest.time,
        evaluation=manifest.evaluation,
        audited=manifest.evidence and manifest.evidence.audited,
        link=None if (link := link_of(prefix, manifest)) is None else hash_of(link),
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
