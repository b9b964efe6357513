"""Diagnostics of a hung process: a bounded number of small files below the checkpoint root, which outlive the pod.

People read them; no program does.
"""

from __future__ import annotations

import contextlib
import re

from halcyon.storage.failures import StoreFailure
from halcyon.storage.store import Store
from halcyon.telemetry import RunIdentity
from halcyon_api.spec.checkpoint import CheckpointSpec

PREFIX = "diagnostics/"
KEPT_RESTARTS = 8
"""Keep the files of this number of newest restarts."""
MAX_BYTES = 1 << 20

_NAME = re.compile(r"hung-(\d+)\.(\d+)-(\d+)\.txt")


def keep_stacks(spec: CheckpointSpec, identity: RunIdentity, stacks: str, *, timeout_seconds: float) -> str:
    """Write the stacks of a hung process. Process 0 also deletes those of old process groups.

    Returns:
        The file's address.

    Raises:
        StoreFailure: The file could not be written.
    """
    store = Store(spec, timeout_seconds=timeout_seconds)
    key = f"{PREFIX}hung-{identity.attempt}.{identity.restart}-{identity.process_index}.txt"
    store.write(key, stacks.encode(errors="replace")[:MAX_BYTES])
    if identity.process_index == 0:
        with contextlib.suppress(StoreFailure):  # the next hung process tries again
            _delete_old(store)
    return f"{store.root}/{key}"


def _delete_old(store: Store) -> None:
    found = [(key, match) for key in store.list(PREFIX) if (match := _NAME.fullmatch(key.removeprefix(PREFIX)))]
    process_groups = sorted({(int(match[1]), int(match[2])) for _, match in found})
    old = set(process_groups[:-KEPT_RESTARTS])
    for key, match in found:
        if (int(match[1]), int(match[2])) in old:
            store.delete(key)
