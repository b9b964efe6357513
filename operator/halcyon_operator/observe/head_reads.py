"""Reads HEADs in the background, so that a store that does not answer delays only its own runs.

A reconcile waits a moment for a store that answered the last request, because such a store answers in milliseconds. Any
other store is read in the background: the reconcile ends, and the run is reconciled again when the answer arrives. A
decision about a new attempt needs a reading whose request was made after the run's JobSets and pods were seen in their
present state (`HeadPending` until then). A run with a running attempt uses the last reading.

Each endpoint gets a few requests at a time, and an endpoint that does not answer gets none for a while (`Circuit`):
after several requests without an answer it pauses, then allows one trial request. A store that never answers costs the
whole timeout of each request. All roots in a store share its circuit, so an outage costs a few requests, independent of
the number of runs. Any answer closes the circuit, even a rejection. The runs of a namespace share a few slots for
endpoints that have not answered yet, so that many such endpoints do not delay other namespaces."""

import asyncio
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from halcyon_api.spec.checkpoint import CheckpointSpec, parse_root
from halcyon_operator.kube.tasks import cancelled
from halcyon_operator.model.recent import Recent
from halcyon_operator.model.views import HeadPending, HeadReading, HeadUnreachable, RunKey
from halcyon_operator.observe.checkpoints import Checkpoints

SILENT_REQUESTS = 3
"""Unanswered requests in a row that open the circuit."""
FIRST_PAUSE_SECONDS = 15.0
LONGEST_PAUSE_SECONDS = 120.0
TRIAL_SECONDS = 10.0
"""Time for the one trial request, in which no other is made. Longer than the timeout of a request."""
Address = tuple[str, str | None, str | None]
"""Root, endpoint, region."""
PATIENCE_SECONDS = 0.25
"""How long a reconcile waits for a store that answered the last time."""
UNREACHABLE_SECONDS = 30.0
"""How long a root counts as unreachable before it is read again."""
SILENT_SECONDS = 2.0
"""A request that fails after this time was not rejected: the store did not answer."""
SLOT_SECONDS = 10.0
"""How long a request waits for a slot before its root counts as unreachable."""
AT_ONCE = 8
"""Requests to one endpoint at a time."""
UNPROVEN_AT_ONCE = 8
"""Requests of a namespace at a time to endpoints that have not answered yet."""
MAX_ROOTS = 4096
"""Roots whose last reading is kept."""
MAX_ENDPOINTS = 1024
MAX_NAMESPACES = 1024
MAX_RUNS = 8192


@dataclass
class Circuit:
    """The circuit of one endpoint. Times are seconds of a monotonic clock.

    Attributes:
        answers: Whether the last request got an answer; False before the first request.
        silent: Unanswered requests in a row.
        open_until: When a request may be made again.
    """

    answers: bool = False
    silent: int = 0
    open_until: float = 0.0

    def admits(self, now: float) -> bool:
        """Whether a request may be made now. After a pause only one request may, and the others wait for its result."""
        if self.silent < SILENT_REQUESTS:
            return True
        if now < self.open_until:
            return False
        self.open_until = now + TRIAL_SECONDS
        return True

    def answered(self) -> None:
        """Record that a request got an answer."""
        self.answers, self.silent = True, 0

    def stayed_silent(self, now: float) -> None:
        """Record that a request got no answer within its time limit."""
        self.answers, self.silent = False, self.silent + 1
        if self.silent >= SILENT_REQUESTS:
            pauses = self.silent - SILENT_REQUESTS
            self.open_until = now + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(pauses, 16))


@dataclass
class _Endpoint:
    """A store, with all roots in it."""

    circuit: Circuit = field(default_factory=Circuit)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


@dataclass
class _Root:
    """The last reading of one root."""

    reading: HeadReading | None = None
    began: float = 0.0
    """When the request of this reading was made."""
    ended: float = 0.0
    request: asyncio.Task[None] | None = None
    waiting: set[RunKey] = field(default_factory=set[RunKey])
    """Runs to reconcile again when the answer arrives."""

    def answer(self, asked: float, now: float) -> HeadReading | None:
        """The reading, if its request was made at the time of the question or later, and if it is not too old; else
        None.
        """
        return self.reading if self.began >= asked and now - self.ended < UNREACHABLE_SECONDS else None


@dataclass(frozen=True)
class _Question:
    """The last question of a run."""

    address: Address
    seen_state: Hashable
    at: float


@dataclass(eq=False)
class HeadReads:
    """Reads HEADs, in the background if the answer may take long.

    Args:
        heads: Reads one HEAD.
        changed: Called with a run's key when an answer arrives after the reconcile has ended.
        clock: Seconds, monotonic.
    """

    heads: Checkpoints
    changed: Callable[[RunKey], None]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._roots: Recent[Address, _Root] = Recent(MAX_ROOTS)
        self._endpoints: Recent[Hashable, _Endpoint] = Recent(MAX_ENDPOINTS)
        self._questions: Recent[RunKey, _Question] = Recent(MAX_RUNS)
        self._unproven: Recent[str, asyncio.Semaphore] = Recent(MAX_NAMESPACES)

    async def read(
        self, key: RunKey, spec: CheckpointSpec, seen_state: Hashable = None, max_age_seconds: float = 0.0
    ) -> HeadReading:
        """The newest known HEAD of a run's root.

        Args:
            key: The run.
            spec: Address of its root.
            seen_state: The state of the run's JobSets and pods. A reading is valid while this state does not change.
            max_age_seconds: For a run with a running attempt: longest age of a reading. An older one is used until a
                newer one arrives.
        """
        address = spec.root, spec.endpoint, spec.region
        root, now = self._roots.recall(address, _Root), self.clock()
        age = UNREACHABLE_SECONDS if isinstance(root.reading, HeadUnreachable) else max_age_seconds
        if root.reading is not None and now - root.ended < age:
            self._questions.pop(key, None)
            return root.reading
        asked = self._questions.get(key)
        if asked is None or (asked.address, asked.seen_state) != (address, seen_state):
            asked = self._questions[key] = _Question(address, seen_state, now)
        if (reading := root.answer(asked.at, now)) is None:
            endpoint = self._endpoints.recall(_endpoint_of(spec), _Endpoint)
            if root.request is None:
                root.request = asyncio.create_task(self._ask(spec, root, endpoint, key[0]))
            if endpoint.circuit.answers:
                await asyncio.wait({root.request}, timeout=PATIENCE_SECONDS)
                reading = root.answer(asked.at, self.clock())
        if reading is not None:
            self._questions.pop(key, None)
            return reading
        if root.request is not None:
            root.waiting.add(key)
        if max_age_seconds > 0:
            return root.reading or HeadUnreachable("it has not answered yet")
        return HeadPending()

    async def close(self) -> None:
        """Cancel all requests."""
        await cancelled(root.request for root in self._roots.values())

    async def _ask(self, spec: CheckpointSpec, root: _Root, endpoint: _Endpoint, namespace: str) -> None:
        began = self.clock()
        try:
            try:
                async with asyncio.timeout(SLOT_SECONDS) as turn, endpoint.slots:
                    if endpoint.circuit.answers:
                        turn.reschedule(None)
                        began, reading = await self._request(spec, endpoint)
                    else:
                        async with self._unproven.recall(namespace, lambda: asyncio.Semaphore(UNPROVEN_AT_ONCE)):
                            turn.reschedule(None)
                            began, reading = await self._request(spec, endpoint)
            except TimeoutError:
                reading = HeadUnreachable("too many stores do not answer")
            root.reading, root.began, root.ended = reading, began, self.clock()
        finally:
            root.request = None
            waiting, root.waiting = root.waiting, set()
            for key in waiting:
                self.changed(key)

    async def _request(self, spec: CheckpointSpec, endpoint: _Endpoint) -> tuple[float, HeadReading]:
        """The time of a request, and its answer."""
        began = self.clock()
        if not endpoint.circuit.admits(began):
            return began, HeadUnreachable("its store does not answer, and is retried at intervals")
        reading = await self.heads.read(spec)
        now = self.clock()
        if isinstance(reading, HeadUnreachable) and now - began >= SILENT_SECONDS:
            endpoint.circuit.stayed_silent(now)
        else:
            endpoint.circuit.answered()
        return began, reading


def _endpoint_of(spec: CheckpointSpec) -> Hashable:
    """The server of a root. Either all roots of a server answer or none."""
    root = parse_root(spec.root)
    return root.scheme, spec.endpoint or root.bucket, spec.region
