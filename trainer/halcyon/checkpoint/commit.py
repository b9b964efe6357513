"""Commits written files, on process 0.

Process 0 waits for every part, compares the files that the parts name, the files that the arrays need and the files
that the store lists, writes MANIFEST.json and COMMIT, and changes HEAD. Only the change of HEAD is the commit. Then the
part documents are deleted.
"""

import platform
from collections import Counter
from functools import cache
from importlib.metadata import version

from halcyon.checkpoint.evidence import key_of, link_of
from halcyon.checkpoint.head import HeadKeeper, with_commit, with_read_back_mark
from halcyon.checkpoint.layout import expected_files
from halcyon.checkpoint.parts import PARTS_PREFIX, Part, Sleep, decode_report, gather_reports
from halcyon.checkpoint.retention import Retention
from halcyon.checkpoint.verify import describe_commit, encode_commit
from halcyon.host.storage.failures import StoreFailure
from halcyon.host.storage.store import Store
from halcyon_api import checkpoint_documents as documents
from halcyon_api import package


class CommitFailed(Exception):
    """A checkpoint was not committed; the message says why.

    Attributes:
        is_full: Whether the cause was a full disk or a used-up quota.
    """

    def __init__(self, text: str, *, is_full: bool = False) -> None:
        super().__init__(text)
        self.is_full = is_full


def gather_parts(
    store: Store, prefix: str, own: Part, process_count: int, *, timeout_seconds: float, sleep: Sleep
) -> tuple[documents.ManifestFile, ...]:
    """Wait for the parts of all other processes.

    If a process has no space left, the function still waits for the rest: before the second try no process may write to
    the first prefix.

    Raises:
        CommitFailed: A process failed, or wrote no part in time; the message names the process.
    """
    files = list(own.files)
    full: CommitFailed | None = None
    parts = f"{prefix}{PARTS_PREFIX}"
    for process, data in gather_reports(
        store, parts, own.process, process_count, CommitFailed, timeout_seconds=timeout_seconds, sleep=sleep
    ):
        try:
            part = decode_report(Part, data)
        except documents.DamagedDocument as damage:
            raise CommitFailed(f"process {process} delivered a damaged part: {damage}") from None
        if part.error is not None:
            failed = CommitFailed(f"process {process} could not write its part: {part.error}", is_full=part.is_full)
            if not part.is_full:
                raise failed
            full = full or failed
        files += part.files
    if full is not None:
        raise full
    return tuple(sorted(files, key=lambda file: file.path))


def commit(
    store: Store,
    keeper: HeadKeeper,
    prefix: str,
    about: documents.Manifest,
    retention: Retention,
    up_milliseconds: int,
    read_back_every: int,
) -> documents.CommittedStep:
    """Commit written files.

    Args:
        about: The manifest without versions and the link that it follows.
        up_milliseconds: Time that the run has been up since the previous commit, or since its start.
        read_back_every: The number of commits after which one is marked to be read back; 0: this one is not.

    Returns:
        The checkpoint, now the newest in HEAD.

    Raises:
        CommitFailed: The files are not the files that the arrays need. HEAD has not changed.
        Fenced: A newer epoch has the root.
        StoreFailure: The store failed before the change of HEAD, or the disk had no room for it.
        Undecided: The store failed during the change of HEAD.
    """
    _check_files(store, prefix, about)
    newest, evidence = keeper.head.newest, about.evidence
    if evidence is not None:
        evidence = evidence.but(previous=newest and newest.link)
    manifest = about.but(versions=versions(), evidence=evidence)
    if (link := link_of(prefix, manifest)) is not None:
        store.write(key_of(prefix), documents.canonical_json(link.document()))
    data = documents.canonical_json(manifest.document())
    for key, content in ((documents.MANIFEST_KEY, data), (documents.COMMIT_KEY, encode_commit(data, about.epoch))):
        if not store.create(f"{prefix}{key}", content):
            raise CommitFailed(f"{prefix}{key} exists already with other content")
    entry = describe_commit(prefix, data, manifest)
    try:
        keeper.update(
            lambda head: with_read_back_mark(with_commit(head, entry, retention), read_back_every).but(
                up_milliseconds=head.up_milliseconds + up_milliseconds
            )
        )
    except StoreFailure as failure:
        if failure.is_full and store.folder is not None and keeper.is_unchanged():
            raise  # a full disk fails at once, so no change of HEAD can still arrive
        raise Undecided(failure) from failure
    return entry


class Undecided(Exception):
    """The store failed during the change of HEAD. The result is unknown, and the change may still arrive.

    The files must stay until a later change of HEAD has succeeded: after that this change can no longer arrive.
    """

    def __init__(self, failure: StoreFailure) -> None:
        super().__init__(str(failure))
        self.failure = failure


def _check_files(store: Store, prefix: str, about: documents.Manifest) -> None:
    named = Counter(file.path for file in about.files)
    needed = expected_files(about.leaves)
    start = f"{prefix}{documents.DATA_PREFIX}"
    listed = {key.removeprefix(start) for key in store.list(start)}
    for what, wrong in (
        ("twice among the parts", {path for path, count in named.items() if count > 1}),
        ("missing from the parts", needed - named.keys()),
        ("no file of this state", named.keys() - needed),
        ("missing from the store", needed - listed),
        ("unknown in the store", listed - needed),
    ):
        if wrong:
            raise CommitFailed(f"{len(wrong)} files are {what}, among them {start}{min(wrong)}")


@cache
def versions() -> dict[str, str]:
    """Versions of the software that writes a manifest."""
    own = {"python": platform.python_version(), "halcyon": package.version()}
    return own | {name: version(name) for name in ("jax", "numpy", "tensorstore")}
