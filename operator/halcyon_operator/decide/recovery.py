"""What follows from the state of a run: the decision table, as data. Pure.

Six facts are drawn from what is seen (`recovery_facts.py`), the first row of `TABLE` that they fit says what to do, and `attempts.py` does
it. The same rows are printed in docs/reference/recovery.md (`recovery_reference.py`). A test holds that every combination of facts has a
row, that every row is the first for some combination, and that every cause is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from halcyon_operator.model.endings import EndCause

Cause = EndCause | Literal["none"]
"""Why the last world ended, until the next one trains; `none` while a world trains, and before the first."""

Progress = Literal["yes", "no"]
"""Whether a checkpoint was committed since: since the failure before, or, where there is room for more slices, since that was found; for an
edit or a restart that waits, whether what was trained when it was seen is saved, or nothing is left to wait for."""

Budget = Literal["left", "spent"]
"""Whether another failure is allowed: `recovery.maxRestarts` failures in a row without a checkpoint; three losses of the root in a row; ten
ends in a row that cost nothing, without a checkpoint."""

Node = Literal["clear", "blamed"]
"""Whether a node has been blamed so often that it is to be avoided, and leaving it costs no step (no world trains)."""

Capacity = Literal["enough", "short", "fewer", "avoided", "more"]
"""Whether there is room for the run, see `CAPACITIES`."""

Edit = Literal["none", "waits"]
"""Whether the spec was edited so that it takes a new attempt, or one was asked for."""

Action = Literal["same", "pause", "edited", "elsewhere", "anywhere", "smaller", "larger", "wait", "stop"]

CAUSES: tuple[Cause, ...] = ("none", *get_args(EndCause))

CAPACITIES: dict[Capacity, str] = {
    "enough": "every pod has a node",
    "short": "pods wait for nodes",
    "fewer": "pods have waited for `recovery.elastic.shrinkAfterSeconds`, and a smaller number of slices that can be used has nodes",
    "avoided": "pods have waited for `recovery.badNodes.giveUpSeconds` while nodes are avoided",
    "more": "the run is on fewer slices than it would have, and a probe holds room for more",
}

ACTIONS: dict[Action, str] = {
    "same": "go on with the same slices: the world trains on, the JobSet starts it again, or, where the JobSet has given up, a new attempt",
    "pause": "a new attempt with the same slices after a pause that grows each time",
    "edited": "a new attempt with the spec as it is now, which may be as it was",
    "elsewhere": "a new attempt with the same slices that keeps off the blamed node",
    "anywhere": "a new attempt with the same slices on any node; blames are forgotten",
    "smaller": "a new attempt with the slices that have nodes",
    "larger": "a new attempt with the slices that there is room for",
    "wait": "nothing: what is on its way goes on",
    "stop": "nothing more happens by itself",
}


@dataclass(frozen=True)
class Facts:
    """What decides."""

    cause: Cause = "none"
    progress: Progress = "no"
    budget: Budget = "left"
    node: Node = "clear"
    capacity: Capacity = "enough"
    edit: Edit = "none"


@dataclass(frozen=True)
class Row:
    """One row: what facts it is for (None: any), what to do, and why."""

    cause: tuple[Cause, ...] | None
    action: Action
    why: str
    progress: Progress | None = None
    budget: Budget | None = None
    node: Node | None = None
    capacity: Capacity | None = None
    edit: Edit | None = None
    reason: str = ""
    """Reason of `Stalled`, for rows that stop."""

    def fits(self, facts: Facts) -> bool:
        """Whether the row is for these facts."""
        return (
            (self.cause is None or facts.cause in self.cause)
            and self.progress in (None, facts.progress)
            and self.budget in (None, facts.budget)
            and self.node in (None, facts.node)
            and self.capacity in (None, facts.capacity)
            and self.edit in (None, facts.edit)
        )


FAILURES: tuple[EndCause, ...] = ("failed", "hung")
"""Causes that count against `recovery.maxRestarts` and blame a node."""

FREE: tuple[EndCause, ...] = ("preempted", "queueEvicted", "podDeleted", "noRoom", "jobSetDeleted")
"""Causes that cost the run nothing."""

OWN: tuple[EndCause, ...] = ("specChanged", "requested", "resized", "moved", "heldBack")
"""Ends that the operator itself made, for a new attempt."""

OUT_OF_REACH: tuple[EndCause, ...] = ("rootUnusable", "dataUnreachable")
"""Causes that lie in a store: it refuses, or does not answer."""

ENDED: tuple[EndCause, ...] = (*FAILURES, *FREE, *OWN, "fenced")
"""Causes after which the run goes on."""

TABLE: tuple[Row, ...] = (
    Row(("completed",), "stop", "all steps are done", reason="Succeeded"),
    Row(("badConfiguration",), "stop", "the same would happen again", reason="BadConfiguration"),
    Row(("runChanged",), "stop", "the checkpoint is of another run", reason="RunChanged"),
    Row(("noValidCheckpoint",), "stop", "a run is never begun again in silence", reason="NoValidCheckpoint"),
    Row(("rootTaken",), "stop", "the root is another run's", reason="CheckpointRootTaken"),
    Row(OUT_OF_REACH, "edited", "the world has ended anyway", edit="waits"),
    Row(OUT_OF_REACH, "same", "the store may be itself again: after a pause that grows each time"),
    Row(("diverged",), "stop", "the same numbers would come again: somebody must look at the loss", reason="Diverged"),
    Row(("unknown",), "stop", "the trainer asked not to be started again, and nothing is left that says why", reason="TrainerStopped"),
    Row(("suspended",), "wait", "until `spec.suspend` is false"),
    Row(("fenced",), "stop", "attempt after attempt loses the root to another writer", progress="no", budget="spent", reason="Fenced"),
    Row(FAILURES, "stop", "a crash loop that gets to no checkpoint", budget="spent", reason="RestartsExhausted"),
    Row(ENDED, "edited", "the world has ended anyway", edit="waits"),
    Row(("none",), "wait", "for a checkpoint, so that no step is lost", progress="no", edit="waits"),
    Row(("none",), "edited", "what was trained when it was seen is saved", progress="yes", edit="waits"),
    Row(FREE, "pause", "it takes hardware and gets nowhere; it is never stopped for that", budget="spent"),
    Row(FAILURES, "elsewhere", "the node has failed before, more than others", budget="left", node="blamed"),
    Row(None, "smaller", "fewer slices now are worth more than all of them some day", capacity="fewer"),
    Row(None, "anywhere", "a bad node is better than none", capacity="avoided"),
    Row(None, "wait", "nodes may come back", capacity="short"),
    Row(("none",), "wait", "for the next checkpoint, so that no step is lost", progress="no", capacity="more"),
    Row(("none",), "larger", "a checkpoint was committed since the room was found", progress="yes", capacity="more"),
    Row(ENDED, "larger", "the world has ended anyway", capacity="more"),
    Row(("none",), "same", "it trains", capacity="enough"),
    Row(FAILURES, "same", "the budget begins anew with each checkpoint", progress="yes", budget="left", capacity="enough"),
    Row(FAILURES, "same", "counts against the budget", progress="no", budget="left", capacity="enough"),
    Row(("fenced",), "same", "a new attempt stands above the other writer's epoch", capacity="enough"),
    Row(FREE, "same", "free of charge", capacity="enough"),
    Row(OWN, "same", "with what the run is to be now", capacity="enough"),
)
"""Read from top to bottom: the first row that fits decides."""

STICKY_REASONS: frozenset[str] = frozenset(row.reason for row in TABLE if row.reason) - {"Succeeded"}
"""Reasons that were concluded from an ended attempt: they hold until the spec is edited or a restart is asked for, whatever else
is seen."""


def decide(facts: Facts) -> Row:
    """The first row that fits."""
    return next(row for row in TABLE if row.fits(facts))
