"""Compares the requests of a test session's operators, from the audit log, with the rights that the chart grants. Pure.

A right is one verb on one kind of object. A right that no request used is too much. A request that was denied, or that
was allowed by a right outside the chart, shows a missing right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from halcyon_devcluster.audit import Request

RELEASE = "halcyon"
RBAC = ("roles", "rolebindings", "clusterroles", "clusterrolebindings")
GIVES, TAKES = ("create", "update", "patch"), ("delete", "deletecollection")


class Right(NamedTuple):
    """One verb on one kind of object."""

    group: str
    resource: str
    """Plural, with the subresource after a slash."""
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


NOT_REQUESTED: dict[Right, str] = {
    Right("halcyon.dev", "trainingruns/finalizers", "update"): (
        "no request uses it: with the admission plugin OwnerReferencesPermissionEnforcement, the API server requires "
        "it when an object is created whose owner reference blocks the deletion of a run"
    ),
}
"""Rights that need no request in the log, and why the chart grants them."""


@dataclass(frozen=True)
class Findings:
    """The rights that were used, and the mistakes in the granted rights."""

    used: Counter[Right]
    denied: tuple[Request, ...]
    ungranted: tuple[Request, ...]
    """Requests that were allowed, but not by the chart's rules."""
    unused: frozenset[Right]
    needless: frozenset[Right]
    """Exceptions that are wrong: requests used these rights, or the chart does not grant them."""


def granted(rules: Iterable[Mapping[str, Any]]) -> frozenset[Right]:
    """The rights that RBAC rules grant."""
    return frozenset(
        Right(group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def right_of(request: Request) -> Right:
    """The right that a request needs."""
    return Right(request.group, request.resource, request.verb)


class Rights:
    """The operators' rights at a moment of the log: those that were removed, and those that were used since they were
    granted.
    """

    def __init__(self) -> None:
        self._gone: set[tuple[str, str, str]] = set()
        self._proven: set[tuple[str, Right, str]] = set()

    def see(self, request: Request) -> None:
        """Record a change of roles or bindings. Ignores other requests."""
        if request.resource not in RBAC or request.code >= 300 or request.verb not in GIVES + TAKES:
            return
        place = (request.namespace, request.name)
        self._proven = {used for used in self._proven if not _concerns(*place, used[0], used[2])}
        if request.verb in TAKES:
            self._gone.add((request.resource, *place))
        else:
            self._gone -= {(request.resource, *place), (request.resource, request.namespace, "")}

    def used(self, request: Request) -> None:
        """Record an operator's request that was allowed."""
        self._proven.add((request.user, right_of(request), request.namespace))

    def excuse(self, denied: Request) -> bool:
        """Whether a denied request of an operator is not the chart's fault.

        Either the operator's rights had been removed, or it has the right: an API server that has just started denies
        for a moment what it allows later.
        """
        if (denied.user, right_of(denied), denied.namespace) in self._proven:
            return True
        return any(_concerns(namespace, name, denied.user, denied.namespace) for _, namespace, name in self._gone)


def _concerns(namespace: str, name: str, user: str, served: str) -> bool:
    """Whether a role or binding (namespace "" if it is cluster-wide) is about the requests of an operator in a
    namespace.
    """
    if namespace:
        return namespace == served
    # Cluster-wide ones have the name of the release; those for an operator's access to nodes also have the operator's
    # namespace.
    return name in ("", RELEASE) or name.startswith(f"{RELEASE}-{user.split(':')[2]}")


def judge(
    log: Iterable[Request],
    is_operator: Callable[[str], bool],
    rights: frozenset[Right],
    not_requested: Mapping[Right, str] = NOT_REQUESTED,
) -> Findings:
    """Compare requests with rights.

    Args:
        log: All requests, including those that remove an operator's rights, as at uninstall. Its later requests are
            expected to be denied.
        is_operator: Whether a user is an operator.
        rights: The rights that the chart grants.
        not_requested: Rights that need no request, and why.
    """
    allowed: list[Request] = []
    denied: list[Request] = []
    known = Rights()
    # A request is logged when it is answered, so a denied request may stand before the one that removed its right.
    for request in sorted(log, key=lambda request: request.at):
        known.see(request)
        if not is_operator(request.user):
            continue
        if not request.denied:
            allowed.append(request)
            known.used(request)
        elif not known.excuse(request):
            denied.append(request)
    used = Counter(map(right_of, allowed))
    return Findings(
        used=used,
        denied=tuple(denied),
        ungranted=tuple(request for request in allowed if right_of(request) not in rights),
        unused=frozenset(rights - set(used) - set(not_requested)),
        needless=frozenset(right for right in not_requested if right in used or right not in rights),
    )
