"""Renders ``docs/reference/edits.md`` from the table of edits."""

from __future__ import annotations

from halcyon_api.edits.classes import MEANINGS, TABLE, EditClass, class_of, leaves_of
from halcyon_api.training_run import TrainingRunSpec

_HEADER = """\
<!-- Generated from crds/halcyon_api by `make generate`. Do not edit. -->
# What an edit leads to

Every field of `spec` has one class. The API server, the operator and `kubectl halcyon diff` go by the same table. The
[guide](../guides/editing.md) says how to edit a run.

| class | an edit is |
|---|---|
"""

_STARTS_AGAIN = """\
## A run that has stopped

A run that has stopped for good (`Stalled`), or whose next attempt is held back, starts again when a field is edited that may have to do
with the cause. That is every field but {fields}. `kubectl halcyon restart` starts it again without an edit.
"""

_STEPS = """\
## trainer.steps

The number of steps may change, up or down, as long as each step that is done would have been the same step with the new number:

| schedule | may change |
|---|---|
| `constant` | always |
| `cosine` with `decaySteps` | always; after `decaySteps` the rate stays at its least |
| `cosine` without | during the warm-up |
| `wsd` | until the decay begins, `decaySteps` before the end, by the old number and by the new one |

It never goes below the steps that are done, and never changes with `data.mixture.simulateTokens`, for the data follows from it then. A run
that has ended goes on when it is given more steps. The API server judges by the step in the status, the operator by what it knows when it
looks, the trainer by the checkpoint; each refuses with the same sentence, and a run that trains is not stopped by an edit that is refused.
"""


def render() -> str:
    """The text of the page."""
    parts = [_HEADER + "".join(f"| {_name(edit)} | {meaning} |\n" for edit, meaning in MEANINGS.items())]
    for edit in MEANINGS:
        rows = [row for row in TABLE if row.edit == edit]
        parts.append(f"## {_name(edit)}\n\n| field | why |\n|---|---|\n" + "".join(f"| `{row.path}` | {row.why} |\n" for row in rows))
    parts.append(_STARTS_AGAIN.format(fields=", ".join(f"`{row.path}`" for row in TABLE if not row.starts_again)))
    parts.append(_STEPS)
    parts.append("## Field by field\n\n| field | class |\n|---|---|\n" + "".join(_line(leaf.path) for leaf in leaves_of(TrainingRunSpec)))
    return "\n".join(parts)


def _line(path: str) -> str:
    return f"| `{path}` | {_name(class_of(path))} |\n"


def _name(edit: EditClass) -> str:
    return {"live": "live", "atCheckpoint": "at a checkpoint", "frozen": "frozen"}[edit]
