"""Runs each program in a pod of its own, which is claimed from a warm pool of sandboxes (agent-sandbox) and deleted
afterwards.

A claim is deleted as soon as its program has ended, also after an error and an interrupt. The controller deletes a
claim at its `shutdownTime` if this process was killed. A pod that the cluster takes away, as with its node, is
replaced, and its program runs again.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from halcyon.errors import BadConfiguration
from halcyon.evals.sandbox.cluster import Cluster, Document, Exec, Failed, WatchEnded
from halcyon.evals.sandbox.in_pod import Lost, run_over
from halcyon.evals.sandbox.running import START_SECONDS, TOO_LONG, Limits, Program, Ran, Unavailable, is_too_long

WAIT_SECONDS = 300.0
"""Longest wait for a sandbox: a pool that is used up may need a new node."""
MOST_AT_ONCE = 64
"""Most programs that run at once."""
_TRIES = 3
_PAUSE_SECONDS = 1.0
_SPARE = timedelta(minutes=5)
_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
_FINAL = {
    "ClaimExpired",
    "EnvVarsInjectionRejected",
    "InvalidMetadata",
    "PodFailed",
    "PodSucceeded",
    "SandboxExpired",
    "TemplateNotFound",
    "VolumeClaimTemplatesError",
    "WarmPoolNotFound",
}
"""Reasons of a claim's condition Ready that no waiting changes."""
_TRIAL = Program(f"import os\nprint('token' if os.path.exists({_TOKEN!r}) else 'safe')")


class SandboxPool:
    """A warm pool of sandboxes. Several threads may run programs at once.

    Args:
        name: The name of the SandboxWarmPool.
        namespace: Its namespace. None: that of this pod, or of the kubeconfig.
        wait_seconds: Longest wait for a sandbox.
        cluster: For tests.
        clock: Seconds from any point.

    Raises:
        BadConfiguration: The Kubernetes client is not installed, or no cluster is configured.
    """

    def __init__(
        self,
        name: str,
        namespace: str | None = None,
        *,
        wait_seconds: float = WAIT_SECONDS,
        cluster: Cluster | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster or Cluster(namespace)
        self._name, self._wait_seconds, self._clock = name, wait_seconds, clock
        self._lock, self._stopped = threading.Lock(), threading.Event()
        self._open: dict[str, Exec | None] = {}

    @property
    def _place(self) -> str:
        return f"the sandbox pool {self._name} in namespace {self._cluster.namespace}"

    def check(self) -> int:
        """Check that the pool runs programs, by a program that does nothing.

        Returns:
            The number of programs that may run at once: the replicas of the pool.

        Raises:
            BadConfiguration: There is no such pool, a right is missing, or its sandboxes are not safe; the sentence
                says what to change.
            Unavailable: The pool gives no sandbox.
        """
        try:
            missing = self._cluster.missing_rights()
            if missing:
                what = ", ".join(map(str, missing))
                raise BadConfiguration(
                    f"{self._place}: this user may not {what}; bind a Role as in examples/agent-sandbox/evaluate.yaml"
                )
            pool = self._cluster.pool(self._name)
        except Failed as error:
            raise BadConfiguration(f"{self._place}: {_no_pool(error, self._name)}") from None
        ran = self.run(_TRIAL)
        if ran.outcome != "passed":
            raise BadConfiguration(
                f"{self._place}: a program that does nothing did not pass ({ran.outcome}): {ran.errors[-500:].strip()}"
            )
        if ran.output != "safe\n":
            raise BadConfiguration(
                f"{self._place}: its pods have a token; set automountServiceAccountToken: false in the SandboxTemplate"
            )
        return max(1, min(int(pool["spec"].get("replicas") or 1), MOST_AT_ONCE))

    def run(self, program: Program, limits: Limits | None = None) -> Ran:
        """Run a program; see `running.run`. A program that lost its pod three times has failed.

        Raises:
            Unavailable: There was no sandbox, or it could not begin the program.
        """
        limits = limits or Limits()
        if is_too_long(program):
            return TOO_LONG
        reason, began = "was not claimed", False
        for number in range(_TRIES):
            if self._stopped.wait(_PAUSE_SECONDS * number):
                break
            try:
                return self._try(program, limits)
            except Lost as error:
                reason, began = str(error), began or error.began
        if self._stopped.is_set():
            raise Unavailable(f"{self._place}: the run of programs was stopped")
        if began:  # no error: a program that kills its own pod must not end the evaluation
            return Ran("failed", "", f"its pod was lost {_TRIES} times; the last one {reason}\n")
        raise Unavailable(f"{self._place}: a sandbox {reason}")

    def stop(self) -> None:
        """End all programs that run, and delete their claims. Later programs are not run."""
        self._stopped.set()
        with self._lock:
            connections = dict(self._open)
        for claim, connection in connections.items():
            if connection is not None:
                connection.interrupt()
            self._delete(claim)

    def _try(self, program: Program, limits: Limits) -> Ran:
        """Run a program once, in a new sandbox.

        Raises:
            Lost: The sandbox was lost before the program had ended.
            Unavailable: There is no sandbox.
        """
        with self._claimed(limits) as claim:
            try:
                made = self._cluster.create_claim(claim, self._spec(limits))
                if self._stopped.is_set():  # `stop` may have tried to delete the claim before it existed
                    raise Lost("was claimed too late")
                sandbox = await_sandbox(
                    made,
                    lambda: self._cluster.claim(claim),
                    lambda version, seconds: self._cluster.claim_events(claim, version, seconds),
                    self._wait_seconds,
                    self._clock,
                    lambda: self._stopped.wait(_PAUSE_SECONDS),
                )
                pod = self._cluster.pod_of(sandbox)
            except NoSandbox as why:
                raise Unavailable(f"{self._place} {why}") from None
            except Failed as error:
                if error.code in (0, 409, 429) or error.code >= 500:
                    raise Lost(f"could not be claimed: {error}") from None
                raise Unavailable(f"{self._place}: {error}") from None
            connection = self._cluster.connect(pod)
            try:
                self._put(claim, connection)
                return run_over(connection, program, limits, self._clock)
            except Lost as error:
                if error.began and self._cluster.lacked_memory(pod):
                    return Ran("memory", "", "")
                raise
            finally:
                self._put(claim, None)
                connection.close()

    @contextmanager
    def _claimed(self, limits: Limits) -> Iterator[str]:
        """The name of a claim, which is deleted at the end of the block.

        Raises:
            Unavailable: The pool was stopped.
        """
        claim = f"halcyon-{secrets.token_hex(8)}"
        self._put(claim, None)  # before the claim exists, so that `stop` finds every claim
        try:
            yield claim
        finally:
            with self._lock:
                del self._open[claim]
            self._delete(claim)

    def _put(self, claim: str, connection: Exec | None) -> None:
        """Note the connection of a claim, for `stop`."""
        with self._lock:
            self._open[claim] = connection
            is_late = self._stopped.is_set() and connection is not None
        if is_late:
            raise Lost("was claimed too late")

    def _spec(self, limits: Limits) -> dict[str, object]:
        longest = timedelta(seconds=self._wait_seconds + START_SECONDS + limits.seconds) + _SPARE
        until = datetime.now(UTC) + longest
        lifecycle = {"shutdownTime": until.strftime("%Y-%m-%dT%H:%M:%SZ"), "shutdownPolicy": "Delete"}
        return {"warmPoolRef": {"name": self._name}, "lifecycle": lifecycle}

    def _delete(self, claim: str) -> None:
        """Delete a claim. A failure ends nothing: the controller deletes the claim at its `shutdownTime`."""
        for _ in range(_TRIES):
            with suppress(Failed):
                self._cluster.delete_claim(claim)
                return


def _no_pool(error: Failed, name: str) -> str:
    """Why a pool could not be read, and what to change."""
    if error.code != 404:
        return str(error)
    if name in str(error):
        return (
            "there is no such SandboxWarmPool; apply it, as in examples/agent-sandbox/evaluate.yaml, or give the "
            "namespace"
        )
    return (
        "the cluster does not have the kinds of agent-sandbox; install it with its extensions "
        "(https://agent-sandbox.sigs.k8s.io)"
    )


class NoSandbox(Exception):
    """A claim gets no sandbox. The message is one sentence without its first word, the claim's pool."""


def sandbox_of(claim: Mapping[str, Any]) -> str | None:
    """The name of the sandbox of a claim, if the sandbox is ready; None: it may become ready.

    Raises:
        NoSandbox: The claim says that it gets none.
    """
    status = claim.get("status") or {}
    ready = _ready(claim)
    if ready.get("status") == "True":
        return (status.get("sandbox") or {}).get("name") or None
    if ready.get("reason") in _FINAL:
        raise NoSandbox(f"gives no sandbox: {ready['reason']} ({ready.get('message') or 'without a message'})")
    return None


def await_sandbox(
    claim: Document,
    read: Callable[[], Document | None],
    watch: Callable[[str, float], Iterable[Mapping[str, Any]]],
    seconds: float,
    clock: Callable[[], float],
    pause: Callable[[], object],
) -> str:
    """Wait until the sandbox of a claim is ready, and return its name.

    Args:
        claim: The claim as it was created.
        read: Reads the claim; None if it does not exist.
        watch: The events of the claim after a resource version, for at most a number of seconds. It raises
            `WatchEnded`.
        seconds: Longest wait.
        clock: Seconds from any point.
        pause: Called before a new read if a watch has broken off, so that there is no tight loop of requests.

    Raises:
        NoSandbox: The claim gets no sandbox, not in this time, or was deleted.
    """
    until = clock() + seconds
    while True:
        if (name := sandbox_of(claim)) is not None:
            return name
        left = until - clock()
        if left <= 0:
            raise NoSandbox(f"has no free sandbox after {seconds:.0f} s{_why(claim)}")
        try:
            for event in watch(claim["metadata"]["resourceVersion"], left):
                if event["type"] == "DELETED":
                    raise NoSandbox("gives no sandbox: the claim was deleted")
                claim = event["object"]
                if (name := sandbox_of(claim)) is not None:
                    return name
        except WatchEnded:
            pause()
        present = read()
        if present is None:
            raise NoSandbox("gives no sandbox: the claim was deleted")
        claim = present


def _ready(claim: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = (claim.get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == "Ready"), {})


def _why(claim: Mapping[str, Any]) -> str:
    """The state of the claim, for the error after the longest wait."""
    if not (claim.get("status") or {}).get("conditions"):
        return "; no controller has answered the claim: is the agent-sandbox controller running, with its extensions?"
    ready = _ready(claim)
    return (
        f" ({ready.get('reason', 'no reason')}: {ready.get('message', '')}); give the pool more replicas, or the "
        "cluster more nodes"
    )
