"""Maintenance notices of nodes, which come before the signal to their pods.

They are read from labels, taints and the cordon of a node, which Google's maintenance handler, the cluster autoscaler,
Karpenter, AWS' node termination handler and ``kubectl drain`` set. Only nodes with notices are kept, and for each run
only the nodes of its pods."""

from collections.abc import Iterable
from datetime import UTC, datetime

from halcyon_api.status.requests import Notice
from halcyon_operator.model.untrusted import integer, mapping, sequence, text, value_at
from halcyon_operator.model.views import NoticeView, RunKey

ACTIVE_LABEL = "cloud.google.com/active-node-maintenance"
SCHEDULED_LABEL = "cloud.google.com/scheduled-maintenance-time"

_TAINTS: dict[str, Notice] = {
    "cloud.google.com/impending-node-termination": "terminating",
    "cloud.google.com/maintenance-window-started": "window",
    "ToBeDeletedByClusterAutoscaler": "draining",
    "node.kubernetes.io/out-of-service": "outOfService",
    "karpenter.sh/disrupted": "draining",
    "karpenter.sh/disruption": "draining",  # before Karpenter 1.0
    "aws-node-termination-handler/spot-itn": "terminating",
    "aws-node-termination-handler/scheduled-maintenance": "draining",
    "aws-node-termination-handler/asg-lifecycle-termination": "draining",
    "aws-node-termination-handler/rebalance-recommendation": "draining",
}


def notices_of(node: object) -> tuple[NoticeView, ...]:
    """All notices of a node document. Never raises."""
    metadata = mapping(value_at(node, "metadata"))
    name, labels = text(metadata.get("name")), mapping(metadata.get("labels"))
    found: list[NoticeView] = []
    if labels.get(ACTIVE_LABEL) == "ONGOING":
        found.append(NoticeView(name, "underway"))
    if (at := _epoch(labels.get(SCHEDULED_LABEL))) is not None:
        found.append(NoticeView(name, "scheduled", at))
    keys = {text(value_at(taint, "key")) for taint in sequence(value_at(node, "spec", "taints"))}
    found += [NoticeView(name, notice) for key, notice in _TAINTS.items() if key in keys]
    if value_at(node, "spec", "unschedulable") is True:
        found.append(NoticeView(name, "cordoned"))
    return tuple(found)


class NodeNotices:
    """Nodes with notices, and the runs to reconcile when a notice appears or ends.

    All calls come from one event loop.
    """

    def __init__(self) -> None:
        self._notices: dict[str, tuple[NoticeView, ...]] = {}
        self._nodes: dict[RunKey, frozenset[str]] = {}

    def __len__(self) -> int:
        return len(self._notices)

    def saw(self, node: object, *, deleted: bool = False) -> tuple[RunKey, ...]:
        """Record a node that the watch showed.

        Returns:
            Keys of the runs on the node, if its notices have changed.
        """
        name = text(value_at(node, "metadata", "name"))
        notices = () if deleted else notices_of(node)
        if self._notices.get(name, ()) == notices:
            return ()
        if notices:
            self._notices[name] = notices
        else:
            del self._notices[name]
        return tuple(key for key, nodes in self._nodes.items() if name in nodes)

    def on(self, key: RunKey, nodes: Iterable[str]) -> tuple[NoticeView, ...]:
        """The notices of a run's nodes, sorted by node.

        The nodes are remembered until the next call, or until `forget`.
        """
        self._nodes[key] = here = frozenset(filter(None, nodes))
        return tuple(notice for node in sorted(here & self._notices.keys()) for notice in self._notices[node])

    def forget(self, key: RunKey) -> None:
        """Drop the nodes of a run."""
        self._nodes.pop(key, None)


def _epoch(value: object) -> datetime | None:
    seconds = integer(value)
    if seconds is None or not 946_684_800 <= seconds < 7_258_118_400:  # years 2000 to 2200
        return None
    return datetime.fromtimestamp(seconds, UTC)
