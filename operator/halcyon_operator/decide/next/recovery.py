"""The recovery decisions of a run: the decision table, as data. Pure.

Six facts are computed from the observation (`by_cause.py`), the first rule of `RULES` that matches them gives the
action, and `by_cause.py` converts it to a step. docs/reference/recovery.md shows the same rules
(`recovery_reference.py`). A test checks that every combination of facts has a rule, that every rule is the first one
for some combination, and that every cause is named."""

from dataclasses import dataclass
from typing import Literal

from halcyon_api.ends import EndCause, causes_of
from halcyon_operator.model.reasons import StallReason

Cause = EndCause | Literal["none"]
"""Why the last process group ended, until the next one trains; `none` while one trains, and before the first group."""

Committed = Literal["yes", "no"]
"""Whether a checkpoint was committed since the last failure; if there is room for more slices: since the room was
found; if a node is slow: since it was found so. If an edit or a restart waits: whether all steps that were done when it
was seen are saved, or the longest wait is over."""

Budget = Literal["left", "spent"]
"""Whether another failure is allowed. The limits are `recovery.maxRestarts` failures in a row without a checkpoint,
three losses of the root in a row, and ten free ends in a row without a checkpoint (two if a node rejected the
pods)."""

Node = Literal["clear", "blamed", "slow"]
"""Whether there is a node to avoid: after many blames, and moving off it loses no step (no process group trains), or
because a process that trains on it is slow."""

Capacity = Literal["enough", "short", "fewer", "avoided", "more", "late"]
"""Whether there is room for the run, see the reference."""

Edit = Literal["none", "waits"]
"""Whether an edit of the spec needs a new attempt, or a user requested one."""

Action = Literal["same", "pause", "edited", "elsewhere", "anywhere", "smaller", "larger", "row", "wait", "stop"]

CAUSES: tuple[Cause, ...] = ("none", *EndCause)


@dataclass(frozen=True)
class RecoveryFacts:
    """The facts that the decision depends on."""

    cause: Cause = "none"
    committed: Committed = "no"
    budget: Budget = "left"
    node: Node = "clear"
    capacity: Capacity = "enough"
    edit: Edit = "none"


@dataclass(frozen=True)
class Rule:
    """One rule: the facts that it matches (None: any), the action, and the reason for the action."""

    cause: tuple[Cause, ...] | None
    action: Action
    why: str
    committed: Committed | None = None
    budget: Budget | None = None
    node: Node | None = None
    capacity: Capacity | None = None
    edit: Edit | None = None
    reason: StallReason | Literal[""] = ""
    """Reason of `Stalled`, for a row that stops; empty: that of the cause."""

    def matches(self, facts: RecoveryFacts) -> bool:
        """Whether the rule matches these facts."""
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
"""Causes that do not count as failures."""

OWN: tuple[EndCause, ...] = causes_of("operator")
"""Ends that the operator itself made, for a new attempt."""

FINAL: tuple[EndCause, ...] = causes_of("final")
"""Causes after which a user must act."""

STORE_ENDS: tuple[EndCause, ...] = causes_of("store")
"""Causes in a store that denies access or does not answer."""

ENDED: tuple[EndCause, ...] = (*FAILURES, *FREE, *OWN, EndCause.FENCED)
"""Causes after which the run continues."""

RULES: tuple[Rule, ...] = (
    Rule((EndCause.COMPLETED,), "wait", "all steps are done"),
    Rule(FINAL, "stop", "the same would happen again: a user must act"),
    Rule(STORE_ENDS, "edited", "the processes have ended anyway", edit="waits"),
    Rule(STORE_ENDS, "same", "the store may work again later: after a pause that grows each time"),
    Rule((EndCause.UNKNOWN,), "stop", "the trainer must not be restarted, and no report has the reason"),
    Rule((EndCause.SUSPENDED,), "wait", "until `spec.suspend` is false"),
    Rule((EndCause.FENCED,), "stop", "each attempt loses the root to another writer", committed="no", budget="spent"),
    Rule(FAILURES, "stop", "a crash loop without a checkpoint", budget="spent", reason="RestartsExhausted"),
    Rule(ENDED, "edited", "the processes have ended anyway", edit="waits"),
    Rule(("none",), "wait", "for a checkpoint, so that no step is lost", committed="no", edit="waits"),
    Rule(("none",), "edited", "all steps that were done when it was seen are saved", committed="yes", edit="waits"),
    Rule((EndCause.REJECTED,), "elsewhere", "another node may take the pods", node="blamed"),
    Rule(FREE, "pause", "the run uses hardware and makes no checkpoint; it is not stopped for that", budget="spent"),
    Rule(FAILURES, "elsewhere", "the node has failed before, more often than others", budget="left", node="blamed"),
    Rule(None, "row", "other hardware may be free", capacity="late"),
    Rule(None, "smaller", "fewer slices now are better than all slices later", capacity="fewer"),
    Rule(None, "anywhere", "a bad node is better than no node", capacity="avoided"),
    Rule(None, "wait", "nodes may come back", capacity="short"),
    Rule(("none",), "wait", "for the next checkpoint, so that no step is lost", committed="no", node="slow"),
    Rule(("none",), "elsewhere", "all others wait for the process on it", committed="yes", node="slow"),
    Rule(("none",), "wait", "for the next checkpoint, so that no step is lost", committed="no", capacity="more"),
    Rule(("none",), "larger", "a checkpoint was committed since the room was found", committed="yes", capacity="more"),
    Rule(ENDED, "larger", "the processes have ended anyway", capacity="more"),
    Rule(("none",), "same", "the run trains", capacity="enough"),
    Rule(FAILURES, "same", "each checkpoint resets the budget", committed="yes", budget="left", capacity="enough"),
    Rule(FAILURES, "same", "counts against the budget", committed="no", budget="left", capacity="enough"),
    Rule((EndCause.FENCED,), "same", "a new attempt is a newer start than that of the other writer", capacity="enough"),
    Rule(FREE, "same", "does not count", capacity="enough"),
    Rule(OWN, "same", "with the new spec or placement", capacity="enough"),
)
"""Read from top to bottom: the first rule that matches decides."""

STICKY_REASONS: frozenset[str] = frozenset(
    rule.reason or cause.end.reason
    for rule in RULES
    if rule.action == "stop"
    for cause in rule.cause or ()
    if isinstance(cause, EndCause)
)
"""Reasons of a stalled run that hold until the spec is edited or a restart is requested."""


def decide(facts: RecoveryFacts) -> Rule:
    """The first rule that matches."""
    return next(rule for rule in RULES if rule.matches(facts))
