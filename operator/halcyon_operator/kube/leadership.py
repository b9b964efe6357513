"""Holds the operator's Lease, and runs the work while the Lease is held.

The rules are in `election`; here are the requests, the clock and the task. The work starts when the Lease is held, and
its coroutine is cancelled when the process may not write any more. The API client then rejects all writes, so a process
that was paused and continues late writes nothing. The watches run all the time, so that the next holder has a full
cache at once."""

import asyncio
import contextlib
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from halcyon_operator.kube import election
from halcyon_operator.kube.client import ApiError, Conflict, KubernetesApi, NotFound, path_of
from halcyon_operator.kube.election import API_VERSION, Election, LeaseRecord, lease_document, parse_lease
from halcyon_operator.kube.tasks import cancelled

logger = logging.getLogger(__name__)

REQUEST_SECONDS = 3.0
"""Time limit of one request for the Lease. Several requests fit into the time for which the Lease is held."""


def seconds() -> float:
    """A clock that never goes back and, where the system has one, counts while the machine sleeps."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


def process_identity(pod: str) -> str:
    """The name of this process in an election.

    In a pod it is the pod's name: the kubelet restarts a container only after the last one has ended, so a process that
    finds its own name in the Lease may continue as the holder. Outside a pod every process has its own name.
    """
    return pod or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


@dataclass(eq=False)
class Leadership:
    """Competes for one Lease.

    Args:
        api: The API client.
        namespace: Namespace of the Lease.
        name: Name of the Lease.
        identity: This process's name in the election.
        clock: Seconds, see `seconds`.
        wall: The wall clock, for the times in the Lease.
    """

    api: KubernetesApi
    namespace: str
    name: str
    identity: str
    clock: Callable[[], float] = seconds
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)

    def __post_init__(self) -> None:
        self._election = Election(self.identity)

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._election.leads(self.clock())

    @property
    def seconds_left(self) -> float:
        """Seconds for which this process may still write."""
        return self._election.left(self.clock())

    async def campaign(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the work whenever the Lease is held. When this coroutine is cancelled, release the Lease.

        Raises:
            Exception: The exception of the work.
        """
        term: asyncio.Task[None] | None = None
        try:
            while True:
                await self._try()
                if self.leads and term is None:
                    logger.info(
                        "leading: lease %s/%s is held by %s", self.namespace, self.name, self._election.identity
                    )
                    term = asyncio.create_task(work())
                pause = election.RENEW_SECONDS if self.leads else election.POLL_SECONDS
                if term is None:
                    await asyncio.sleep(pause)
                    continue
                # Returns at the latest when the hold ends, and at once if the work fails.
                await asyncio.wait({term}, timeout=min(pause, self.seconds_left))
                if term.done():
                    await term
                    return
                if not self.leads:
                    logger.warning(
                        "not leading any more: lease %s/%s could not be renewed in time", self.namespace, self.name
                    )
                    await cancelled([term])
                    term = None
        finally:
            await cancelled([term])
            await self._release()

    async def _try(self) -> None:
        """Read the Lease or renew it, once. A failure is retried in the next cycle."""
        limit = min(REQUEST_SECONDS, self.seconds_left) if self.leads else REQUEST_SECONDS
        try:
            async with asyncio.timeout(limit):
                if not self._election.known:
                    await self._look()
                if (proposal := self._election.proposal(self.clock(), self.wall())) is not None:
                    await self._write(proposal)
        except (TimeoutError, ApiError) as error:
            if not isinstance(error, Conflict):  # Another process was faster.
                logger.warning("lease %s/%s: %s", self.namespace, self.name, str(error) or "no answer in time")

    async def _look(self) -> None:
        try:
            document = await self.api.request("GET", self._path(), "leases")
        except NotFound:
            document = {}
        self._election.record_read(parse_lease(document), self.clock())

    async def _write(self, record: LeaseRecord) -> None:
        began = self.clock()
        body = lease_document(record, self.namespace, self.name)
        # The result of the write is unknown until its answer arrives.
        self._election.begin_write()
        if record.version:
            written = await self.api.request("PUT", self._path(), "leases", body=body, fenced=False)
        else:
            written = await self.api.request(
                "POST", path_of(API_VERSION, "leases", self.namespace), "leases", body=body, fenced=False
            )
        self._election.record_write(parse_lease(written), began)

    async def _release(self) -> None:
        """Release the Lease, so that the next process takes it within a second and not only after `LEASE_SECONDS`."""
        record = self._election.release(self.wall())
        if record is None:
            return
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(REQUEST_SECONDS):
                await self._write(record)
                logger.info("released lease %s/%s", self.namespace, self.name)

    def _path(self) -> str:
        return path_of(API_VERSION, "leases", self.namespace, self.name)
