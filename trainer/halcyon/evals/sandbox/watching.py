"""Waits for the sandbox of a claim by the events of a watch. Pure: the read, the watch and the clock are arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Document = dict[str, Any]

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


class WatchEnded(Exception):
    """A watch broke off or could not be opened. A new read finds what it missed."""


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
        found = read()
        if found is None:
            raise NoSandbox("gives no sandbox: the claim was deleted")
        claim = found


def _ready(claim: Mapping[str, Any]) -> Mapping[str, Any]:
    conditions = (claim.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one.get("type") == "Ready"), {})


def _why(claim: Mapping[str, Any]) -> str:
    """The state of the claim, for the error after the longest wait."""
    if not (claim.get("status") or {}).get("conditions"):
        return "; no controller has answered the claim: is the agent-sandbox controller running, with its extensions?"
    ready = _ready(claim)
    return (
        f" ({ready.get('reason', 'no reason')}: {ready.get('message', '')}); give the pool more replicas, or the "
        "cluster more nodes"
    )
