"""The reference page of recovery decisions: ``python -m halcyon_operator.decide.recovery_reference > docs/reference/recovery.md``.

It is generated from the table that the operator itself uses, and from the rows of `halcyon_operator.decide.precedence`; a test compares the
committed page with it.
"""

from __future__ import annotations

import sys

from pydantic.alias_generators import to_camel

from halcyon_operator.decide.precedence import AFTER_ATTEMPT, BEFORE, Question
from halcyon_operator.decide.recovery import ACTIONS, CAPACITIES, RULES, Rule
from halcyon_operator.model.causes import ENDS, End

_HEAD = """\
# What the operator does after each end

<!-- Made by `python -m halcyon_operator.decide.recovery_reference`; do not edit. -->

The operator decides by the three tables of this page, each from top to bottom: the first row that matches gives the action. The
[operator's reference](operator.md) describes how each cause is found, the [guide](../guides/when-something-dies.md) what it means for your run.

## Before the causes

These cases come first, whatever ended the last process group.

{before}

## By cause

While the run has a JobSet and no row above matches, this table decides. An empty cell matches any value.

| facts | |
|---|---|
| cause | why the last process group ended, until the next one trains; `none` while one trains |
| checkpoint | whether the group that ended had committed one (`fenced`: had done a step); `more`, `waits`: one was committed since |
| budget | `spent`: over `recovery.maxRestarts` failures or ten `free` ends in a row without a checkpoint, or three losses of the root |
| node | `blamed`: a node has enough blames to be avoided (`recovery.badNodes`), and no processes train |
| edit | `waits`: an edit of the spec needs a new attempt ([edits](edits.md)), or a restart was requested |
| capacity | see below |
"""

_AFTER_ATTEMPT = """\
## After an attempt

When an attempt has ended and its JobSet is deleted, or before the first one, these cases decide.
"""

_CAUSES = """\
## Causes

The codes and names of each cause of an end. The budget is the cost of the end: `failure` counts against `recovery.maxRestarts`, `free` and
`operator` do not count, `store` means a pause, `final` stops the run; for `other` see the tables above.

| cause | exit code | budget | counter in `status.restarts` | reason of the event |
|---|---|---|---|---|"""


def render() -> str:
    """The text of the page."""
    parts = [_HEAD.replace("{before}", _questions(BEFORE)), "| capacity | |\n|---|---|"]
    parts += [f"| `{name}` | {meaning} |" for name, meaning in CAPACITIES.items()]
    parts += ["\n| action | |\n|---|---|"]
    parts += [f"| **{name}** | {meaning} |" for name, meaning in ACTIONS.items()]
    parts += ["\n| cause | checkpoint | budget | node | capacity | edit | action | why |\n|---|---|---|---|---|---|---|---|"]
    parts += map(_line, RULES)
    parts += ["", _AFTER_ATTEMPT, _questions(AFTER_ATTEMPT), "", _CAUSES]
    parts += map(_cause_line, ENDS.values())
    return "\n".join(parts) + "\n"


def _questions(rows: tuple[Question, ...]) -> str:
    return "\n".join(["| case | what the operator does |", "|---|---|", *(f"| {row.when} | {row.then} |" for row in rows)])


def _cause_line(row: End) -> str:
    code = str(int(row.exit_code)) if row.exit_code is not None else ""
    return f"| `{row.cause}` | {code} | {row.budget} | `{to_camel(row.counter)}` | `{row.event}` |"


def _line(rule: Rule) -> str:
    causes = ", ".join(f"`{cause}`" for cause in rule.cause) if rule.cause is not None else ""
    conditions = (f"{value}" if value else "" for value in (rule.committed, rule.budget, rule.node, rule.capacity, rule.edit))
    action = f"**{rule.action}**" + (f" `{rule.reason}`" if rule.reason else "")
    return f"| {causes} | {' | '.join(conditions)} | {action} | {rule.why} |"


if __name__ == "__main__":
    sys.stdout.write(render())
