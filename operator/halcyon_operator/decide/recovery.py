"""What follows from the state of a run: the decision table, as data. Pure.

Six facts are drawn from what is seen (`recovery_facts.py`), the first rule of `RULES` that they fit says what to do, and `attempts.py` does
it. The same rows are printed in docs/reference/recovery.md (`recovery_reference.py`). A test holds that every combination of facts has a
rule, that every rule is the first for some combination, and that every cause is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from halcyon_operator.model.causes import EndCause, causes_of

Cause = EndCause | Literal["none"]
"""Why the last world ended, until the next one trains; `none` while a world trains, and before the first."""

Committed = Literal["yes", "no"]
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
class RecoveryFacts:
    """What decides."""

    cause: Cause = "none"
    committed: Committed = "no"
    budget: Budget = "left"
    node: Node = "clear"
    capacity: Capacity = "enough"
    edit: Edit = "none"


@dataclass(frozen=True)
class Rule:
    """One rule: what facts it is for (None: any), what to do, and why."""

    cause: tuple[Cause, ...] | None
    action: Action
    why: str
    committed: Committed | None = None
    budget: Budget | None = None
    node: Node | None = None
    capacity: Capacity | None = None
    edit: Edit | None = None
    reason: str = ""
    """Reason of `Stalled`, for rows that stop."""

    def matches(self, facts: RecoveryFacts) -> bool:
        """Whether the rule is for these facts."""
        return (
            (self.cause is None or facts.cause in self.cause)
            and self.committed in (None, facts.committed)
            and self.budget in (None, facts.budget)
            and self.node in (None, facts.node)
            and self.capacity in (None, facts.capacity)
            and self.edit in (None, facts.edit)
        )


FAILURES: tuple[EndCause, ...] = causes_of("failure")
"""Causes that count against `recovery.maxRestarts` and blame a node."""

FREE: tuple[EndCause, ...] = causes_of("free")
"""Causes that cost the run nothing."""

OWN: tuple[EndCause, ...] = causes_of("operator")
"""Ends that the operator itself made, for a new attempt."""

OUT_OF_REACH: tuple[EndCause, ...] = causes_of("store")
"""Causes that lie in a store: it refuses, or does not answer."""

ENDED: tuple[EndCause, ...] = (*FAILURES, *FREE, *OWN, "fenced")
"""Causes after which the run goes on."""

RULES: tuple[Rule, ...] = (
    Rule(("completed",), "stop", "all steps are done", reason="Succeeded"),
    Rule(("badConfiguration",), "stop", "the same would happen again", reason="BadConfiguration"),
    Rule(("runChanged",), "stop", "the checkpoint is of another run", reason="RunChanged"),
    Rule(("noValidCheckpoint",), "stop", "a run is never begun again in silence", reason="NoValidCheckpoint"),
    Rule(("rootTaken",), "stop", "the root is another run's", reason="CheckpointRootTaken"),
    Rule(OUT_OF_REACH, "edited", "the world has ended anyway", edit="waits"),
    Rule(OUT_OF_REACH, "same", "the store may be itself again: after a pause that grows each time"),
    Rule(("diverged",), "stop", "the same numbers would come again: somebody must look at the loss", reason="Diverged"),
    Rule(("unknown",), "stop", "the trainer asked not to be started again, and nothing is left that says why", reason="TrainerStopped"),
    Rule(("suspended",), "wait", "until `spec.suspend` is false"),
    Rule(("fenced",), "stop", "attempt after attempt loses the root to another writer", committed="no", budget="spent", reason="Fenced"),
    Rule(FAILURES, "stop", "a crash loop that gets to no checkpoint", budget="spent", reason="RestartsExhausted"),
    Rule(ENDED, "edited", "the world has ended anyway", edit="waits"),
    Rule(("none",), "wait", "for a checkpoint, so that no step is lost", committed="no", edit="waits"),
    Rule(("none",), "edited", "what was trained when it was seen is saved", committed="yes", edit="waits"),
    Rule(FREE, "pause", "it takes hardware and gets nowhere; it is never stopped for that", budget="spent"),
    Rule(FAILURES, "elsewhere", "the node has failed before, more than others", budget="left", node="blamed"),
    Rule(None, "smaller", "fewer slices now are worth more than all of them some day", capacity="fewer"),
    Rule(None, "anywhere", "a bad node is better than none", capacity="avoided"),
    Rule(None, "wait", "nodes may come back", capacity="short"),
    Rule(("none",), "wait", "for the next checkpoint, so that no step is lost", committed="no", capacity="more"),
    Rule(("none",), "larger", "a checkpoint was committed since the room was found", committed="yes", capacity="more"),
    Rule(ENDED, "larger", "the world has ended anyway", capacity="more"),
    Rule(("none",), "same", "it trains", capacity="enough"),
    Rule(FAILURES, "same", "the budget begins anew with each checkpoint", committed="yes", budget="left", capacity="enough"),
    Rule(FAILURES, "same", "counts against the budget", committed="no", budget="left", capacity="enough"),
    Rule(("fenced",), "same", "a new attempt stands above the other writer's epoch", capacity="enough"),
    Rule(FREE, "same", "free of charge", capacity="enough"),
    Rule(OWN, "same", "with what the run is to be now", capacity="enough"),
)
"""Read from top to bottom: the first rule that matches decides."""

STICKY_REASONS: frozenset[str] = frozenset(rule.reason for rule in RULES if rule.reason) - {"Succeeded"}
"""Reasons that were concluded from an ended attempt: they hold until the spec is edited or a restart is asked for, whatever else
is seen."""


def decide(facts: RecoveryFacts) -> Rule:
    """The first rule that matches."""
    return next(rule for rule in RULES if rule.matches(facts))
