"""Compiled programs of the runs in the cluster, which later sessions use again.

`tests.trainer.support.shared_programs` keeps those of runs without a cluster. A run looks for its program in its
checkpoint root before it compiles. The root of a test is new, so each test would compile what an earlier session
compiled from the same document.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obstore.store import S3Store

from tests.trainer.support.shared_programs import FOLDER, Programs

Open = Callable[[str], AbstractContextManager[S3Store]]
"""Opens the checkpoint root of a run by its name."""


class KeptPrograms:
    """Programs of earlier sessions for the roots of new runs.

    Args:
        folder: Where the programs are kept.
        open_root: Opens a root.
    """

    def __init__(self, folder: Path, open_root: Open) -> None:
        self._programs = Programs(folder)
        self._open_root = open_root
        self._roots: dict[str, str] = {}

    def lend(self, document: Mapping[str, Any]) -> None:
        """Copy the programs of earlier runs of this document into its root."""
        address = document["spec"].get("checkpoint", {}).get("root")
        if address is None:
            return
        root, key = urlsplit(address).path.strip("/"), _key(document)
        if self._roots.get(root) == key:
            return
        self._roots[root] = key
        with tempfile.TemporaryDirectory() as name:
            self._programs.copy_into(folder := Path(name), key)
            if files := [path for path in folder.rglob("*") if path.is_file()]:
                with self._open_root(root) as store:
                    for path in files:
                        store.put(str(path.relative_to(folder)), path)

    def keep(self) -> None:
        """Keep the programs that the roots have now."""
        for root, key in self._roots.items():
            with tempfile.TemporaryDirectory() as name, self._open_root(root) as store:
                for found in (entry["path"] for part in store.list(f"{FOLDER}/") for entry in part):
                    path = Path(name) / found
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(bytes(store.get(found).bytes()))
                self._programs.copy_from(Path(name), key)


def _key(document: Mapping[str, Any]) -> str:
    """A hash of all that a program may depend on in a document.

    The name of a program says the rest: versions and processor.
    """
    spec = {
        name: value
        for name, value in document["spec"].items()
        if name not in ("checkpoint", "data", "after", "telemetry")
    }
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:32]
