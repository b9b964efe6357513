"""The API server's audit log: who asked for what, in a cluster of our own.

It is what tests count writes with, and what shows which rights are used. The cluster's own components are left out: they ask thousands of
times what nobody wants to know. Bodies are left out, too.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})

_COMPONENTS = ["system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"]


def policy() -> dict[str, Any]:
    """Return the audit policy. Pure."""
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            # Also what takes the rights along with a namespace.
            {"level": "Metadata", "resources": [{"group": "rbac.authorization.k8s.io"}], "verbs": ["create", "delete", "deletecollection"]},
            {"level": "None", "users": _COMPONENTS},
            {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
            {"level": "None", "nonResourceURLs": ["*"]},
            {"level": "Metadata"},
        ],
    }


@dataclass(frozen=True)
class Request:
    """One request that the API server answered.

    Attributes:
        user: Who asked, such as `system:serviceaccount:NAMESPACE:NAME`.
        agent: The program, as it calls itself.
        resource: With the subresource, such as `trainingruns/status`.
        name: The object; empty for lists. Of an object that is created, as far as the server logged it.
        code: HTTP status.
        at: When the request came.
        denied: Whether it was refused because the user has no right to it, and for no other reason.
    """

    verb: str
    user: str
    agent: str
    group: str
    resource: str
    namespace: str
    name: str
    code: int
    at: datetime
    denied: bool = False

    @property
    def write(self) -> bool:
        """Whether it changes something."""
        return self.verb in WRITES


def parse(line: str) -> Request | None:
    """Read a line of the log; None where it is no answered request for a resource, or is cut off. Pure."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    about = entry.get("objectRef")
    # A watch is answered when it begins. Its end is not logged where the API server is killed.
    if about is None or entry.get("stage") != ("ResponseStarted" if entry.get("verb") == "watch" else "ResponseComplete"):
        return None
    return Request(
        verb=entry["verb"],
        user=entry["user"].get("username", ""),
        agent=entry.get("userAgent", ""),
        group=about.get("apiGroup", ""),
        resource="/".join(filter(None, (about["resource"], about.get("subresource")))),
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        code=entry.get("responseStatus", {}).get("code", 0),
        at=datetime.fromisoformat(entry["requestReceivedTimestamp"]),
        denied=entry.get("annotations", {}).get("authorization.k8s.io/decision") == "forbid",
    )


def requests_since(path: Path, since: datetime, about: Callable[[str], bool] = lambda _: True) -> Iterator[Request]:
    """Yield what was asked from a time on, also from the file that the API server has put aside because it had grown large.

    Args:
        path: The file that is written now.
        since: The time, with its zone.
        about: Whether a line is worth parsing: most of a log is about something else.
    """
    for file in (*sorted(path.parent.glob(f"{path.stem}-*{path.suffix}")), path):
        with file.open() as log:
            for line in log:
                if about(line) and (request := parse(line)) is not None and request.at >= since:
                    yield request


class AuditLog:
    """The log from a moment on.

    Args:
        path: The file, which the API server may replace when it has grown large.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._inode = path.stat().st_ino if path.exists() else 0

    def new(self) -> Iterator[Request]:
        """Yield what was logged since the last call, or since this was made."""
        if not self._path.exists():
            return
        with self._path.open() as log:
            if self._path.stat().st_ino != self._inode:
                self._inode, self._offset = self._path.stat().st_ino, 0
            log.seek(self._offset)
            while (line := log.readline()).endswith("\n"):
                self._offset = log.tell()
                if (request := parse(line)) is not None:
                    yield request
