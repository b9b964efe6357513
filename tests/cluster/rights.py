"""What the operators of a test session asked of the API server, by its audit log, held against the rights that the chart gives them. Pure.

A right is one verb on one kind of object. One that was never used is too much; a request that was denied, or that was allowed by a right
which is not the chart's, shows one that is missing.
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
    """Plural, with the subresource behind a slash."""
    verb: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


NOT_REQUESTED: dict[Right, str] = {
    Right("halcyon.dev", "trainingruns/finalizers", "update"): (
        "no request is made with it: where the plugin OwnerReferencesPermissionEnforcement is on, the API server asks for it when an "
        "object is created whose owner reference blocks the deletion of a run"
    ),
    Right(
        "", "events", "list"
    ): "the events of a pod are read when it has had a node for five minutes and does not run, for which no test waits",
}
"""Rights that stay without a request in the log, and why they are given."""


@dataclass(frozen=True)
class Findings:
    """What was asked for, and what is wrong with the rights."""

    used: Counter[Right]
    denied: tuple[Request, ...]
    ungranted: tuple[Request, ...]
    """Allowed, but by something else than the chart's rules."""
    unused: frozenset[Right]
    needless: frozenset[Right]
    """Exceptions that are none: requests were made with them, or they are not given."""


def granted(rules: Iterable[Mapping[str, Any]]) -> frozenset[Right]:
    """The rights that rules give."""
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
    """What is known of the operators' rights at a moment of the log: which are taken back, and which were used since they were given."""

    def __init__(self) -> None:
        self._gone: set[tuple[str, str, str]] = set()
        self._proven: set[tuple[str, Right, str]] = set()

    def see(self, request: Request) -> None:
        """Take note of a change of roles or bindings; other requests are of no concern."""
        if request.resource not in RBAC or request.code >= 300 or request.verb not in GIVES + TAKES:
            return
        place = (request.namespace, request.name)
        self._proven = {used for used in self._proven if not _concerns(*place, used[0], used[2])}
        if request.verb in TAKES:
            self._gone.add((request.resource, *place))
        else:
            self._gone -= {(request.resource, *place), (request.resource, request.namespace, "")}

    def used(self, request: Request) -> None:
        """Take note of a request of an operator that was allowed."""
        self._proven.add((request.user, right_of(request), request.namespace))

    def excuse(self, denied: Request) -> bool:
        """Whether an operator was denied something by no fault of the chart.

        Its rights had been taken back, or it has the right: an API server that has just started denies for a moment what it allows later.
        """
        if (denied.user, right_of(denied), denied.namespace) in self._proven:
            return True
        return any(_concerns(namespace, name, denied.user, denied.namespace) for _, namespace, name in self._gone)


def _concerns(namespace: str, name: str, user: str, served: str) -> bool:
    """Whether a role or binding is about what an operator does in a namespace, or in none."""
    if namespace:
        return namespace == served
    # Those of the whole cluster bear the name of the release; what one operator needs of nodes bears the operator's namespace.
    return name in ("", RELEASE) or name.startswith(f"{RELEASE}-{user.split(':')[2]}")


def judge(
    log: Iterable[Request],
    is_operator: Callable[[str], bool],
    rights: frozenset[Right],
    not_requested: Mapping[Right, str] = NOT_REQUESTED,
) -> Findings:
    """Hold requests against rights.

    Args:
        log: All requests, also those that take an operator's rights back, as when it is uninstalled. What it asks for from then on is
            denied with good reason.
        is_operator: Whether a user is an operator.
        rights: What the chart gives.
        not_requested: Rights that need no request, and why.
    """
    allowed: list[Request] = []
    denied: list[Request] = []
    known = Rights()
    # A request is logged when it is answered, so one that was denied may stand before the one that took its right back.
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
