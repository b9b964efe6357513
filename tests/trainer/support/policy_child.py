"""``halcyon`` with a reward, which kills itself once: ``python -m tests.trainer.support.policy_child train RUN.YAML
...``.

KILL=rollout:N: while the answers of batch N, counted from 0, are sampled; KILL=step:N: after their rewards, before the
step. DIE_AT_WRITE: the number of the write of answers, weights or leases before which the process dies. ENDS: how many tokens, from the first one, end an answer. LEASE_SECONDS: how long a sampler leaves a lease to
another one. KILLED=FILE: the file that the process then makes; ROOT=FOLDER: the checkpoint root, for whose first checkpoint it
waits before.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from halcyon.commands.main import app
from halcyon.host.storage.store import Store
from halcyon.inference.rollout import Rollouts
from halcyon.run.policy import pool, sampling
from halcyon_api.checkpoint_documents import HEAD_KEY, decode_head

rollout, decoded, made = Rollouts.__call__, Rollouts._answers, sampling.Sampled
number = -1
writes = 0


def different(prompts: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """A pure reward that differs between almost all answers."""
    del prompts
    return [
        sum(map(ord, answer)) % 97 / 97 + len(reference) for answer, reference in zip(answers, references, strict=True)
    ]


def die_once(moment: str) -> None:
    mark = Path(os.environ.get("KILLED", "/"))
    if os.environ.get("KILL") == f"{moment}:{number}" and not mark.exists():
        while not committed():  # the save of the step is under way
            time.sleep(0.02)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def committed() -> bool:
    """Whether the root has a checkpoint."""
    head = Path(os.environ["ROOT"]) / HEAD_KEY
    return head.exists() and bool(decode_head(head.read_bytes()).committed)


def counted(rollouts: Rollouts, model: Any, prompted: Any, purpose: int, batch: int, *trainer: Any) -> Any:
    global number
    number = batch if purpose == 1 else -1
    return rollout(rollouts, model, prompted, purpose, batch, *trainer)


def interrupted(rollouts: Rollouts, state: Any) -> Any:
    die_once("rollout")
    return decoded(rollouts, state)


def before_a_step(*arguments: Any) -> Any:
    die_once("step")
    return made(*arguments)


def dying(write: Any) -> Any:
    """A write of a store that may be the last thing that never happens."""

    def counted_write(store: Store, key: str, *arguments: Any, **named: Any) -> Any:
        global writes
        if key.startswith(("rollouts/", "sampling/")):
            writes += 1
            if writes == int(os.environ["DIE_AT_WRITE"]):
                os.kill(os.getpid(), signal.SIGKILL)
        return write(store, key, *arguments, **named)

    return counted_write


if __name__ == "__main__":
    if "DIE_AT_WRITE" in os.environ:
        Store.write, Store.create = dying(Store.write), dying(Store.create)  # type: ignore[method-assign]
    Rollouts.__call__ = counted  # type: ignore[method-assign]
    Rollouts._answers = interrupted  # type: ignore[method-assign]
    sampling.Sampled = before_a_step  # type: ignore[misc,assignment]
    if count := os.environ.get("ENDS"):
        ends = tuple(range(int(count)))
        sampling._ends = lambda *_: ends
    if seconds := os.environ.get("LEASE_SECONDS"):
        pool._FIRST_LEASE_SECONDS = pool._SHORTEST_LEASE_SECONDS = float(seconds)
        pool._LEASE_TIMES = 1.0
    app()
