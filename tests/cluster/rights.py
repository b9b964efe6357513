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

BINDINGS = ("rolebindings", "clusterrolebindings")


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


def judge(
    log: Iterable[Request],
    is_operator: Callable[[str], bool],
    rights: frozenset[Right],
    not_requested: Mapping[Right, str] = NOT_REQUESTED,
) -> Findings:
    """Hold requests against rights.

    Args:
        log: All requests, in their order: also those that take an operator's rights back, as when it is uninstalled. What it asks for
            from then on is denied with good reason.
        is_operator: Whether a user is an operator.
        rights: What the chart gives.
        not_requested: Rights that need no request, and why.
    """
    allowed: list[Request] = []
    denied: list[Request] = []
    taken_back: dict[str, bool] = {}
    for request in log:
        if request.resource in BINDINGS and request.code < 300:
            taken_back[request.namespace] = request.verb != "create"
        if not is_operator(request.user):
            continue
        if not request.denied:
            allowed.append(request)
        elif not taken_back.get(request.namespace, False) and not taken_back.get("", False):
            denied.append(request)
    used = Counter(map(right_of, allowed))
    return Findings(
        used=used,
        denied=tuple(denied),
        ungranted=tuple(request for request in allowed if right_of(request) not in rights),
        unused=frozenset(rights - set(used) - set(not_requested)),
        needless=frozenset(right for right in not_requested if right in used or right not in rights),
    )
