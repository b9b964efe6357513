"""The rollouts that a run keeps because it samples answers ahead of the steps that train on them: one file for each
batch, beside its checkpoints.

The weights that sampled a batch are gone when its step is done, so a process that resumes reads the answers here. A
file is never changed: its name has the batch, the version of the weights, and the start of the run that wrote it
(its number and the nonce of the writer, as in HEAD). Of two starts that sampled the same
batch with weights of the same step, the later one counts. A process that has lost the root is the earlier one.

The link of a checkpoint names the files that the steps after it need, with their hashes, as it names the segments of
the history.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from pydantic import TypeAdapter

from halcyon.checkpoint.evidence import key_of, parsed_link
from halcyon.host.storage.records import DamagedRecord, parsed, written
from halcyon.host.storage.store import Store
from halcyon.telemetry.history.samples import NEWEST
from halcyon.telemetry.history.segments import digest
from halcyon_api.checkpoint_documents import ROLLOUTS_PREFIX, CommittedStep

_NAME = re.compile(rf"{ROLLOUTS_PREFIX}(\d{{9,}})\.(\d{{9,}})\.(\d{{6,}})\.([0-9a-f]+)\.json\.zst")


class RolloutName(NamedTuple):
    """The name of a file."""

    batch: int
    """The number of the batch, counted from 0."""
    version: int
    """Steps done by the weights that sampled."""
    start: int
    """The number of the start that wrote it, or that wrote the weights for a sampler; see `Checkpointer.start`."""
    writer: str
    """The nonce of the writer."""

    @property
    def key(self) -> str:
        """The key in the root."""
        return f"{ROLLOUTS_PREFIX}{self.batch:09d}.{self.version:09d}.{self.start:06d}.{self.writer}.json.zst"


@dataclass(frozen=True)
class Rollout:
    """The answers of a batch. Lists of answers are in the order of the batch, and the lists of their tokens are padded.

    Attributes:
        batch: The number of the batch, counted from 0.
        version: Steps done by the weights that sampled.
        seed: ``spec.trainer.seed``.
        prompts: The tokens of each prompt.
        tokens: The tokens of each answer, as the other members in `halcyon.inference.rollout.Answered`.
        counts: Tokens of each answer.
        sampled: Whether the model chose a token; a tool wrote the others.
        ended: Whether the model ended an answer; else it was cut.
        log_probs: The log-probability of each token that the model chose, as it was sampled.
        rewards: The rewards of the answers to each prompt.
        mismatch: The greatest and the mean difference of `log_probs` from those of the trainer, in nats.
        contexts: The tokens before each answer, where an environment decides them.
        outcomes: How the conversation of each answer with an environment ended: a word, and a sentence about a failure.
    """

    batch: int
    version: int
    seed: int
    prompts: list[list[int]]
    tokens: list[list[int]]
    counts: list[int]
    sampled: list[list[bool]]
    ended: list[bool]
    log_probs: list[list[float]]
    rewards: list[list[float]]
    mismatch: list[float]
    contexts: list[list[int]] = field(default_factory=list)
    outcomes: list[tuple[str, str]] = field(default_factory=list)


_STORED = TypeAdapter(Rollout)


def names_in(store: Store, batch: int | None = None) -> list[RolloutName]:
    """The names of the rollouts of a root, or of those of a batch.

    Raises:
        StoreFailure: The store did not answer.
    """
    prefix = ROLLOUTS_PREFIX if batch is None else f"{ROLLOUTS_PREFIX}{batch:09d}."
    found = [one.groups() for key in store.list(prefix) if (one := _NAME.fullmatch(key))]
    return [RolloutName(*(int(part) for part in one[:3]), one[3]) for one in found]  # pyright: ignore[reportCallIssue]


def write_rollout(store: Store, name: RolloutName, rollout: Rollout) -> str:
    """Write a file.

    Returns:
        Its SHA-256.

    Raises:
        StoreFailure: The store did not answer.
    """
    data = written(rollout)
    store.write(name.key, data)
    return digest(data)


def keep_first(store: Store, name: RolloutName, rollout: Rollout) -> str | None:
    """Write a file, unless there is one.

    Returns:
        What differs from that one, apart from the numbers of a reward function; None: nothing.

    Raises:
        DamagedRecord: There is one, and it is damaged.
        StoreFailure: The store did not answer.
    """
    if store.create(name.key, written(rollout)):
        return None
    there = parsed(name.key, store.read(name.key).data or b"", _STORED)
    mine, its = asdict(rollout), asdict(there)
    return ", ".join(one for one in mine if one not in ("rewards", "mismatch") and mine[one] != its[one]) or None


def find(
    store: Store, batch: int, version: int, entry: CommittedStep | None = None
) -> tuple[RolloutName, Rollout, str]:
    """Read the answers of a batch.

    Args:
        store: The root.
        batch: The number of the batch.
        version: Steps done by the weights that sampled.
        entry: The checkpoint whose link may name the file.

    Returns:
        The file that counts, what it holds, and its SHA-256.

    Raises:
        DamagedRecord: There is none, it is damaged, it holds another batch, or the link has another hash of it.
        StoreFailure: The store did not answer.
    """
    link = None if entry is None else parsed_link(store.read(key_of(entry.path)).data)
    named = (link and link.segments) or {}
    of_batch = names_in(store, batch)
    right = [name for name in of_batch if name.version == version]
    if not right:
        others = f"; there are those of step {of_batch[0].version}" if of_batch else ""
        raise DamagedRecord(f"there are no answers to batch {batch} by the weights of step {version}{others}")
    name = max(right, key=lambda one: (one.key in named, one))
    data = store.read(name.key).data or b""
    found, sha256 = parsed(name.key, data, _STORED), digest(data)
    if named.get(name.key, sha256) != sha256:
        raise DamagedRecord(f"{name.key} is not what was written: the chain of evidence has another hash")
    if (found.batch, found.version) != name[:2]:
        raise DamagedRecord(
            f"{name.key} holds batch {found.batch} by the weights of step {found.version}, unlike its name"
        )
    return name, found, sha256


def unlike(store: Store, here: Rollout) -> str | None:
    """How answers differ from those that a root keeps, as a clause with the first prompt, counted from 0; None if they
    do not, or it keeps none of the batch.

    Raises:
        StoreFailure: The store did not answer.
    """
    if not names_in(store, here.batch):
        return None
    try:
        name, there, _ = find(store, here.batch, here.version)
    except DamagedRecord as damage:
        return str(damage)
    mine, its = asdict(here), asdict(there)
    others = [field for field in mine if mine[field] != its[field]]
    asked = {  # the numbers of their prompts
        row // (len(mine[field]) // len(here.prompts))
        for field in {*others} - {"batch", "version", "seed", "mismatch"}
        for row, (one, other) in enumerate(zip(mine[field], its[field], strict=False))
        if one != other
    }
    first = f" from prompt {min(asked)} on" if asked else ""
    return f"{name.key} has other {', '.join(others)}{first}" if others else None


def delete_old(store: Store, committed: Sequence[int], delay: int) -> None:
    """Delete the files that neither a checkpoint nor a replay of the newest steps needs.

    Args:
        store: The root.
        committed: Steps of its checkpoints.
        delay: Batches that a checkpoint needs.

    Raises:
        StoreFailure: The store did not answer.
    """
    recent = max(committed, default=0) - NEWEST
    for name in names_in(store):
        if name.batch < recent and not any(step <= name.batch < step + delay for step in committed):
            store.delete(name.key)
