"""The reference page of recovery decisions: ``python -m halcyon_operator.decide.next.recovery_reference >
docs/reference/recovery.md``.

It is generated from the tables by which the operator itself decides; a test compares the committed page with it.
"""

import sys

from halcyon_api.ends import HELD, EndCause
from halcyon_operator.decide.next.attempts import BEFORE
from halcyon_operator.decide.next.next_attempt import AFTER_ATTEMPT
from halcyon_operator.decide.next.recovery import RULES, Rule
from halcyon_operator.decide.next.steps import Case

_HEAD = """\
# What the operator does after each end

<!-- Made by `python -m halcyon_operator.decide.next.recovery_reference`; do not edit. -->

The operator decides by the three tables of this page, each from top to bottom: the first row that matches gives the action. The
[guide](../guides/when-something-dies.md) describes what it means for your run.

## Before the causes

These cases come first, whatever ended the last process group.

{before}

## By cause

While the run has a JobSet and no row above matches, this table decides. An empty cell matches any value.

| facts | |
|---|---|
| cause | why the last process group ended, until the next one trains; `none` while one trains |
| checkpoint | whether the group that ended had committed one (`fenced`: had done a step); `more`, `waits`, `slow`: one was committed since |
| budget | `spent`: over `recovery.maxRestarts` failures or ten `free` ends (two of `rejected`) in a row without a checkpoint, or three losses of the root |
| node | `blamed`: a node has enough blames to be avoided (`recovery.badNodes`), and no processes train; `slow`: a process that trains on it is slow (`recovery.straggler`, action `replace`) |
| edit | `waits`: an edit of the spec needs a new attempt ([edits](trainingrun.md#the-effect-of-an-edit)), or a restart was requested |
| capacity | see below |

| capacity | |
|---|---|
| `enough` | every pod has a node |
| `short` | pods wait for nodes |
| `fewer` | pods have waited for `recovery.elastic.shrinkAfterSeconds`, and a smaller number of slices that can be used has nodes |
| `avoided` | pods have waited for `recovery.badNodes.giveUpSeconds` while nodes are avoided |
| `late` | pods have found no node, or the queue has admitted nothing, for `place.waitSeconds`, and the run has other rows of hardware |
| `more` | a probe holds room: for more slices, if the run has fewer than `wantedSlices`, or in a better row of `place` |

| action | |
|---|---|
| **same** | continue with the same slices: the processes train on, the JobSet restarts them, or, if the JobSet has failed, a new attempt |
| **pause** | a new attempt with the same slices after a pause that grows each time |
| **edited** | a new attempt with the present spec, which may be unchanged |
| **elsewhere** | a new attempt with the same slices that does not use the blamed node |
| **anywhere** | a new attempt with the same slices on any node; blames are deleted |
| **smaller** | a new attempt with the slices that have nodes |
| **larger** | a new attempt with as many slices as there is room for, or in the better row |
| **row** | a new attempt in the next row of `place`; in the first one if the attempt had trained in another |
| **wait** | nothing now |
| **stop** | nothing until a user acts |

| cause | checkpoint | budget | node | capacity | edit | action | why |
|---|---|---|---|---|---|---|---|"""
_AFTER_ATTEMPT = """\
## After an attempt

When an attempt has ended and its JobSet is deleted, or before the first one, these cases decide.
"""
_CAUSES = """\
## Causes

Why a process group ends: the cause in `status.history`. The budget is the cost of the end: `failure` counts against
`recovery.maxRestarts` until the next checkpoint, `free` and `operator` do not count, `store` means a pause, `final` stops the run; for
`other` see the tables above. An end that the user asked for sets the count of failures back to 0. A trainer with any other exit code
has `failed`.

| cause | what happened | exit code | budget | counter in `status.restarts` | reason of the event |
|---|---|---|---|---|---|"""
_REASONS = """
## What to do

While a run is stopped because of a cause, `Stalled` has this reason. While its next attempt is delayed, `Degraded` and `Ready` have it; the
attempt is made at the time in the message, after a delay that grows each time.

| reason | condition | cause | what to do |
|---|---|---|---|"""


def render() -> str:
    """The text of the page."""
    parts = [_HEAD.replace("{before}", _cases(BEFORE)), *map(_line, RULES)]
    parts += ["", _AFTER_ATTEMPT, _cases(AFTER_ATTEMPT), "", _CAUSES]
    parts += map(_cause_line, EndCause)
    parts += [_REASONS, *(_reason_line(cause) for cause in EndCause if cause.end.reason)]
    return "\n".join(parts) + "\n"


def _cases(rows: tuple[Case, ...]) -> str:
    return "\n".join(
        ["| case | what the operator does |", "|---|---|", *(f"| {row.when} | {row.then} |" for row in rows)]
    )


def _cause_line(cause: EndCause) -> str:
    end = cause.end
    code = "" if end.exit_code is None else str(int(end.exit_code))
    budget = f"{end.budget}, by the user" if end.by_user else end.budget
    return f"| `{cause}` | {end.found} | {code} | {budget} | `{cause.counter}` | `{end.event}` |"


def _reason_line(cause: EndCause) -> str:
    condition = "Degraded" if cause in HELD else "Stalled"
    return f"| `{cause.end.reason}` | `{condition}` | `{cause}` | {cause.end.fix} |"


def _line(rule: Rule) -> str:
    causes = ", ".join(f"`{cause}`" for cause in rule.cause) if rule.cause is not None else ""
    conditions = (
        f"{value}" if value else "" for value in (rule.committed, rule.budget, rule.node, rule.capacity, rule.edit)
    )
    of_causes = (cause.end.reason for cause in rule.cause or () if isinstance(cause, EndCause))
    reasons = [rule.reason] if rule.reason else of_causes if rule.action == "stop" else ()
    action = " ".join([f"**{rule.action}**", ", ".join(f"`{reason}`" for reason in reasons)]).rstrip()
    return f"| {causes} | {' | '.join(conditions)} | {action} | {rule.why} |"


if __name__ == "__main__":
    sys.stdout.write(render())
