"""Reads the progress report of a run's first trainer process, and requests checkpoints from it.

A pod runs code of users. So its answer is bounded in time and size, must belong to this run, attempt and restart, and
is not trusted.

`Polls` asks in the background, so that pods that do not answer delay nothing. A reconcile waits a moment for a trainer
that answered the last request, because such a trainer answers in milliseconds. Any other trainer is polled in the
background: the reconcile continues with the last report, and the run is reconciled again when the answer arrives. A
trainer that never answers is polled less and less often. A trainer that rejects the connection, for example while it
imports its libraries, is polled every second at first. At most `MAX_AT_ONCE` requests run at a time.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import aiohttp
from prometheus_client import Counter

from halcyon_api.post_requests import SAVE_PATH
from halcyon_operator.kube.tasks import cancelled
from halcyon_operator.model.decision import SaveAsk
from halcyon_operator.model.recent import Recent
from halcyon_operator.model.views import PodView, ProcessGroup, RunKey
from halcyon_operator.observe.reports import MAX_REPORT_BYTES, ReportReading, parse_report

TIMEOUT_SECONDS = 2.0
PATIENCE_SECONDS = 0.25
"""How long a reconcile waits for a trainer that answered the last time."""
REFUSED_PAUSE_SECONDS = 1.0
LONGEST_REFUSED_PAUSE_SECONDS = 10.0
FIRST_PAUSE_SECONDS = 2.0
LONGEST_PAUSE_SECONDS = 60.0
MAX_AT_ONCE = 32
MAX_REMEMBERED = 8192


class Trainers:
    """Requests to trainers.

    Args:
        polls: Counts reads by result.
    """

    def __init__(self, polls: Counter) -> None:
        self._polls = polls
        self._http: aiohttp.ClientSession | None = None

    async def read(self, pod: PodView, port: int, run: str) -> ReportReading:
        """The report of a pod."""
        reading = await self._ask(self._session(), f"{_address(pod.ip, port)}/status", run, pod.group)
        self._polls.labels("ok" if reading.report is not None else "failed").inc()
        return reading

    async def send_save_request(self, ask: SaveAsk) -> str:
        """Request a checkpoint from a process.

        Returns:
            Why the process did not accept the request; empty if it did.
        """
        headers = {"Authorization": f"Bearer {ask.token}", "Content-Type": "application/json"}
        body = ask.request.model_dump_json(by_alias=True)
        url = f"{_address(ask.ip, ask.port)}{SAVE_PATH}"
        try:
            async with self._session().post(url, data=body, headers=headers, allow_redirects=False) as response:
                return "" if response.status == 202 else f"it answered with HTTP status {response.status}"
        except TimeoutError:
            return f"no answer within {TIMEOUT_SECONDS:g} s"
        except aiohttp.ClientConnectorError as error:
            return f"no connection to {error.host}:{error.port}"
        except (aiohttp.ClientError, ValueError) as error:
            return f"its answer cannot be read ({type(error).__name__})"

    def _session(self) -> aiohttp.ClientSession:
        if self._http is None:
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
            # A new connection for each request: a kept one could lead to the predecessor of a restarted trainer.
            self._http = aiohttp.ClientSession(
                timeout=timeout, connector=aiohttp.TCPConnector(force_close=True), trust_env=False
            )
        return self._http

    async def _ask(self, http: aiohttp.ClientSession, url: str, run: str, group: ProcessGroup) -> ReportReading:
        try:
            async with http.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    return ReportReading(problem=f"it answered with HTTP status {response.status}")
                body = await response.content.read(MAX_REPORT_BYTES + 1)
                while len(body) <= MAX_REPORT_BYTES and (more := await response.content.read(MAX_REPORT_BYTES)):
                    body += more
        except TimeoutError:
            return ReportReading(problem=f"no answer within {TIMEOUT_SECONDS:g} s")
        except aiohttp.ClientConnectorError as error:
            return ReportReading(problem=f"no connection to {error.host}:{error.port}")
        except (aiohttp.ClientError, ValueError) as error:
            return ReportReading(problem=f"its answer cannot be read ({type(error).__name__})")
        if len(body) > MAX_REPORT_BYTES:
            return ReportReading(problem=f"its report is larger than {MAX_REPORT_BYTES} bytes")
        return parse_report(body, run, group)

    async def close(self) -> None:
        """Close all connections."""
        if self._http is not None:
            await self._http.close()


def _address(ip: str, port: int) -> str:
    return f"http://[{ip}]:{port}" if ":" in ip else f"http://{ip}:{port}"


@dataclass
class _Polled:
    """The last report of one pod's trainer."""

    reading: ReportReading = field(default_factory=ReportReading)
    failures: int = 0
    due: float = 0.0
    poll: asyncio.Task[None] | None = None

    @property
    def answers(self) -> bool:
        return self.reading.report is not None


@dataclass(eq=False)
class Polls:
    """Polls trainers, in the background if the answer may take long.

    Args:
        trainers: Reads one trainer.
        changed: Called with a run's key when a new report arrives after the reconcile has ended.
        clock: Seconds, monotonic.
    """

    trainers: Trainers
    changed: Callable[[RunKey], None]
    clock: Callable[[], float]

    def __post_init__(self) -> None:
        self._known: Recent[tuple[RunKey, str], _Polled] = Recent(MAX_REMEMBERED)
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def read(self, key: RunKey, pod: PodView, port: int) -> ReportReading:
        """The last report of a run's pod, or the reason why there is none."""
        trainer = self._known.recall((key, pod.uid), _Polled)
        if trainer.poll is None and self.clock() >= trainer.due:
            trainer.poll = asyncio.create_task(self._poll(key, pod, port, trainer))
        if trainer.poll is not None and trainer.answers:
            await asyncio.wait({trainer.poll}, timeout=PATIENCE_SECONDS)
        return trainer.reading

    async def close(self) -> None:
        """Cancel all polls."""
        await cancelled(trainer.poll for trainer in self._known.values())

    async def _poll(self, key: RunKey, pod: PodView, port: int, trainer: _Polled) -> None:
        waited_for, before = trainer.answers, trainer.reading
        try:
            async with self._slots:
                began = self.clock()
                reading = await self.trainers.read(pod, port, key[1])
        finally:
            trainer.poll = None
        now = self.clock()
        slow = now - began > PATIENCE_SECONDS
        trainer.reading = reading
        if reading.report is not None:
            trainer.failures, trainer.due = 0, 0.0
        elif not slow:
            trainer.due = now + min(LONGEST_REFUSED_PAUSE_SECONDS, REFUSED_PAUSE_SECONDS * (1 + trainer.failures / 10))
            trainer.failures += 1
        else:
            trainer.due = now + min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(trainer.failures, 16))
            trainer.failures += 1
        if (slow or not waited_for) and reading != before:
            self.changed(key)
