"""What a run and the samplers of its pool exchange, by files of the run's root.

```
sampling/weights/000000005.000002.1914d145.json                    weights, and the batches that they sample
sampling/arrays/000000005.000002.1914d145/                         their arrays
sampling/leases/000000007.000000005.000002.1914d145.json.zst       who samples batch 7 with them
rollouts/000000007.000000005.000002.1914d145.json.zst              its answers
```

The run writes weights before its next step, and deletes them when all their batches are answered and used. So a process
that resumes finds either the answers that it needs or the weights that sample them. Answers have the name of the start
that wrote the weights, so those of a start that has lost the root do not count.

A lease keeps samplers from doing the same work; nothing else depends on it. A sampler takes over a lease that it has
seen unchanged for three times as long as a batch takes itself, so a lost or slow sampler delays a batch, and no more.
Two samplers give the same bits, so the first answers count, and others are a proof; if they differ, the second sampler
ends with an error.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from halcyon.checkpoint.processes import Processes
from halcyon.checkpoint.published import Published, publish, record_of
from halcyon.checkpoint.snapshot import Snapshotter
from halcyon.host.storage.store import Store
from halcyon.run.policy.rollouts import RolloutName, names_in
from halcyon_api.checkpoint_documents import ROLLOUTS_PREFIX, SAMPLING_PREFIX

_WEIGHTS_PREFIX, _ARRAYS_PREFIX = f"{SAMPLING_PREFIX}weights/", f"{SAMPLING_PREFIX}arrays/"
_LEASES_PREFIX = f"{SAMPLING_PREFIX}leases/"
_WEIGHTS = re.compile(rf"{_WEIGHTS_PREFIX}(\d{{9,}})\.(\d{{6,}})\.([0-9a-f]+)\.json")
_PAUSE_SECONDS = 0.1
_SHORTEST_LEASE_SECONDS, _FIRST_LEASE_SECONDS = 5.0, 60.0
_LEASE_TIMES = 3.0
"""How many times as long as a batch takes a lease lasts."""


class Weights(Published):
    """Weights that sample."""

    version: int
    """Steps done by them."""
    start: int
    """The start that wrote them; see `RolloutName`."""
    writer: str
    batches: tuple[int, ...]
    """The batches that they sample."""
    sections: dict[str, str]
    """The fingerprints of the run's document and data."""

    def work(self) -> Iterator[RolloutName]:
        """The names of the answers that they give."""
        return (RolloutName(batch, self.version, self.start, self.writer) for batch in self.batches)


def weights_in(store: Store, known: dict[str, Weights]) -> list[Weights]:
    """The weights of a root, in the order of versions and starts.

    Args:
        store: The root.
        known: Records that were read before, by key; changed.

    Raises:
        Damaged: A record is damaged.
        StoreFailure: The store did not answer.
    """
    keys = [key for key in store.list(_WEIGHTS_PREFIX) if _WEIGHTS.fullmatch(key)]
    found = {key: known.get(key) or record_of(store, key, Weights) for key in keys}
    known.clear()
    known |= {key: record for key, record in found.items() if record is not None}
    return list(known.values())


def open_work(store: Store, known: dict[str, Weights]) -> list[tuple[RolloutName, Weights]]:
    """The batches without answers of the latest start that wrote weights of their version, the earliest batch first.

    See `weights_in`.
    """
    latest = {one.version: one for one in sorted(weights_in(store, known), key=lambda one: (one.start, one.writer))}
    answered = set(names_in(store))
    return sorted(
        ((name, one) for one in latest.values() for name in one.work() if name not in answered),
        key=lambda pair: pair[0],
    )


class Publisher:
    """The side of the run.

    Args:
        store: The root.
        processes: The processes of the run.
        start: The start of the run, as the names of its answers have it: its number and its writer.
        sections: The fingerprints of the run.
    """

    def __init__(self, store: Store, processes: Processes, start: tuple[int, str], sections: dict[str, str]) -> None:
        self._store, self._processes, self._start, self._sections = store, processes, start, sections
        self._snapshotter = Snapshotter(processes.process_index, processes.process_count)
        self._known: dict[str, Weights] = {}
        self._published: set[int] = set()

    def publish(self, version: int, batches: list[int], model: Any) -> None:
        """Write the weights that sample some batches, once. A collective.

        Raises:
            TrainerExit: The store did not answer.
        """
        if version in self._published or not batches:
            return
        start, writer = self._start
        name = f"{version:09d}.{start:06d}.{writer}"
        about = Weights(
            prefix=f"{_ARRAYS_PREFIX}{name}/",
            version=version,
            start=start,
            writer=writer,
            batches=tuple(batches),
            sections=self._sections,
        )
        publish(self._store, f"{_WEIGHTS_PREFIX}{name}.json", model, about, self._processes, self._snapshotter)
        self._published.add(version)

    def coming(self, batch: int, version: int) -> Callable[[float], bool]:
        """A function that waits for the answers of a batch at most this number of seconds, and says whether they are
        there. Where nothing can answer, it says yes at once: the read names what is missing."""
        own = self._start if version in self._published else None
        if self._processes.process_index or not (
            own or any(one.version == version for one in weights_in(self._store, self._known))
        ):
            return lambda seconds: True

        def wait(seconds: float) -> bool:
            until = time.monotonic() + seconds
            while True:
                names = names_in(self._store, batch)
                if any(name.version == version and own in (None, name[2:]) for name in names):
                    return True
                if (left := until - time.monotonic()) <= 0:
                    return False
                time.sleep(min(_PAUSE_SECONDS, left))

        return wait

    def delete_used(self, batch: int) -> None:
        """Delete the weights and leases that no batch after this one needs. For process 0.

        Raises:
            StoreFailure: The store did not answer.
        """
        for key, one in [*self._known.items()] if weights_in(self._store, self._known) else ():
            if max(one.batches) <= batch:
                self._store.delete_prefix(one.prefix)  # before its record, so that a kill leaves no arrays
                self._store.delete(key)
        for key in self._store.list(_LEASES_PREFIX):
            if int(key.removeprefix(_LEASES_PREFIX).partition(".")[0]) <= batch:
                self._store.delete(key)


class Leases:
    """The leases that one sampler takes.

    Args:
        store: The root.
        sampler: A word that no other sampler has.
        clock: Seconds of a clock that only goes forward.
    """

    def __init__(self, store: Store, sampler: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._sampler, self._clock = store, sampler, clock
        self._seen: dict[str, tuple[bytes, float]] = {}
        self.batch_seconds: float | None = None
        """How long the last batch took this sampler."""

    def take(self, name: RolloutName) -> bool:
        """Take the lease of a batch, if nobody has it or its sampler seems lost.

        Raises:
            StoreFailure: The store did not answer.
        """
        key = _lease_key(name)
        present, now = self._store.read(key), self._clock()
        if present.data is not None:
            generation, since = self._seen.get(key, (b"", now))
            if generation != present.generation:
                self._seen[key] = present.generation, now
                return False
            if now - since < self._patience_seconds:
                return False
        lease = json.dumps({"sampler": self._sampler, "time": now}).encode()
        return self._store.swap(key, lease, present.generation) is not None

    def give_back(self, name: RolloutName) -> None:
        """Delete the lease of a batch that is answered.

        Raises:
            StoreFailure: The store did not answer.
        """
        self._store.delete(_lease_key(name))
        self._seen.clear()

    @property
    def _patience_seconds(self) -> float:
        usual = self.batch_seconds
        return _FIRST_LEASE_SECONDS if usual is None else max(_SHORTEST_LEASE_SECONDS, _LEASE_TIMES * usual)


def _lease_key(name: RolloutName) -> str:
    return f"{_LEASES_PREFIX}{name.key.removeprefix(ROLLOUTS_PREFIX)}"
