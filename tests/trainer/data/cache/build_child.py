"""Builds caches in small shards, which tests kill: one process for each input line ``ROOT CORPUS WORKERS HOLD``.

The processes are forked from this one, which has imported all modules and runs no threads: starting fifty interpreters
would take longer than the builds. The answer to a line is the process id, and after the end of the process its exit
code. HOLD is where the build waits until it is killed: ``files:N`` or ``commits:N``, after it has written N files of
shards or committed N shards; ``-``: the build runs to its end.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from halcyon.data.cache import build, election, ensure
from halcyon.data.cache.build import SourceBuild
from halcyon.data.sources import pieces
from halcyon.host.storage.store import Store
from tests.trainer.data.cache.runs import jsonl, spec_of
from tests.trainer.support.datasets import ensure_caches

PIECE_BYTES = 4096
SHARD_TOKENS = 4096


def stand_still(hold: str) -> None:
    """Make the build wait at `hold`, so that no kill comes too late."""
    kind, _, number = hold.partition(":")
    calls = itertools.count()

    def held(method: Any, concerns: Callable[[Any], bool]) -> Any:
        def run(self: Any, *arguments: Any) -> Any:
            if concerns(arguments[0]) and next(calls) == int(number):
                signal.pause()
            return method(self, *arguments)

        return run

    if kind == "files":
        Store.write = held(Store.write, lambda key: "/shards/" in key)  # type: ignore[method-assign]
    elif kind == "commits":
        SourceBuild._swap = held(SourceBuild._swap, lambda _: True)  # type: ignore[method-assign]


def main(root: str, corpus: Path, workers: int) -> None:
    ensure.pieces = functools.partial(pieces, target_bytes=PIECE_BYTES)  # type: ignore[assignment]
    build.SMALL_BYTES = 0
    election.LOCK_TIMEOUT_SECONDS, election.RENEW_SECONDS = 0.2, 0.05
    cache = {"workers": workers, "shardTokens": SHARD_TOKENS}
    ensure_caches(spec_of(root, [jsonl(corpus)], data__cache=cache), process=f"child-{os.getpid()}")


def serve() -> None:
    for line in sys.stdin:
        root, corpus, workers, hold = line.split()
        child = os.fork()
        if child == 0:
            os.setsid()
            stand_still(hold)
            main(root, Path(corpus), int(workers))
            sys.stdout.flush()
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
