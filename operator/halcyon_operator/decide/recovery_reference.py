"""The reference page of recovery decisions: ``python -m halcyon_operator.decide.recovery_reference > docs/reference/recovery.md``.

Made from the table that the operator itself decides by; a test holds the committed page to it.
"""

from __future__ import annotations

import sys

from halcyon_operator.decide.recovery import ACTIONS, CAPACITIES, RULES, Rule

_HEAD = """\
# What follows from what befell a run

<!-- Made by `python -m halcyon_operator.decide.recovery_reference`; do not edit. -->

The operator decides by this table, from top to bottom: the first row that fits says what to do. An empty cell fits anything. What each
cause is seen as stands in the [operator's reference](operator.md); what it means for your run in the [guide](../guides/recovery.md).

| facts | |
|---|---|
| cause | why the last world of processes ended, until the next one trains; `none` while one trains |
| checkpoint | whether the world that ended had committed one (`fenced`: had got anywhere); `more`, `waits`: whether one was since |
| budget | `spent`: more failures in a row without a checkpoint than `recovery.maxRestarts`, or three attempts in a row that lost the root |
| node | `blamed`: a node was blamed so often that it is to be avoided (`recovery.badNodes`), and no world trains |
| edit | `waits`: the spec was edited so that it takes a new attempt ([edits](edits.md)), or a restart was asked for |
| capacity | see below |
"""


def render() -> str:
    """The text of the page."""
    parts = [_HEAD, "| capacity | |\n|---|---|"]
    parts += [f"| `{name}` | {meaning} |" for name, meaning in CAPACITIES.items()]
    parts += ["\n| action | |\n|---|---|"]
    parts += [f"| **{name}** | {meaning} |" for name, meaning in ACTIONS.items()]
    parts += ["\n| cause | checkpoint | budget | node | capacity | edit | action | why |\n|---|---|---|---|---|---|---|---|"]
    parts += map(_line, RULES)
    return "\n".join(parts) + "\n"


def _line(rule: Rule) -> str:
    causes = ", ".join(f"`{cause}`" for cause in rule.cause) if rule.cause is not None else ""
    conditions = (f"{value}" if value else "" for value in (rule.committed, rule.budget, rule.node, rule.capacity, rule.edit))
    action = f"**{rule.action}**" + (f" `{rule.reason}`" if rule.reason else "")
    return f"| {causes} | {' | '.join(conditions)} | {action} | {rule.why} |"


if __name__ == "__main__":
    sys.stdout.write(render())
