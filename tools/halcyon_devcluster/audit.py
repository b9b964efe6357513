"""The API server's audit log in a native cluster: every request, its user and its result.

Tests use it to count writes and to see which rights are used. Requests of the cluster's own components are not logged,
because there are thousands of them. Bodies are not logged either.
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
            # Also logged for the cluster's components: the namespace controller deletes the rights in a deleted
            # namespace.
            {
                "level": "Metadata",
                "resources": [{"group": "rbac.authorization.k8s.io"}],
                "verbs": ["create", "delete", "deletecollection"],
            },
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
        user: The user, such as `system:serviceaccount:NAMESPACE:NAME`.
        agent: The user agent of the program.
        resource: With the subresource, such as `trainingruns/status`.
        name: Name of the object; empty for lists, and for a created object if the server did not log it.
        code: HTTP status.
        at: When the server received the request.
        denied: Whether it was rejected because the user lacks the right, not for another reason.
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
        """Whether its verb changes objects."""
        return self.verb in WRITES


def parse(line: str) -> Request | None:
    """Parse a line of the log; None unless it is an answered request for a resource, or if it is cut off. Pure."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    about = entry.get("objectRef")
    # A watch counts as answered when it starts: its end is not logged if the API server is killed.
    if about is None or entry.get("stage") != (
        "ResponseStarted" if entry.get("verb") == "watch" else "ResponseComplete"
    ):
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
    """Yield the requests since a time, also from the files that the API server has rotated because of their size.

    Args:
        path: The file that the API server writes now.
        since: The time, time-zone aware.
        about: Returns whether a line is worth parsing; it saves time, because most lines are about something else.
    """
    for file in (*sorted(path.parent.glob(f"{path.stem}-*{path.suffix}")), path):
        with file.open() as log:
            for line in log:
                if about(line) and (request := parse(line)) is not None and request.at >= since:
                    yield request


class AuditLog:
    """The log from the creation of this object on.

    Args:
        path: The file, which the API server may rotate because of its size.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._inode = path.stat().st_ino if path.exists() else 0

    def new(self) -> Iterator[Request]:
        """Yield the requests logged since the last call, or since the creation of this object."""
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
