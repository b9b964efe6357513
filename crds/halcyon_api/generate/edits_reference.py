"""Renders ``docs/reference/edits.md`` from the table of edits."""

from __future__ import annotations

from halcyon_api.edits.classes import EDIT_RULES, MEANINGS, EditClass, class_of, leaves_of
from halcyon_api.training_run import TrainingRunSpec

_HEADER = """\
<!-- Generated from crds/halcyon_api by `make generate`. Do not edit. -->
# The effect of an edit

Every field of `spec` has one class. The API server, the operator and `kubectl halcyon diff` use the same table. The
[guide](../guides/editing.md) describes how to edit a run.

| class | an edit is |
|---|---|
"""

_STARTS_AGAIN = """\
## A run that has stopped

A run that has stopped (`Stalled`), or whose next attempt is delayed, starts again after an edit of a field that may be related to the
cause. These are all fields except {fields}. `kubectl halcyon restart` starts the run again without an edit.
"""

_STEPS = """\
## trainer.steps

The number of steps may increase or decrease if each finished step would have been the same with the new number:

| schedule | may change |
|---|---|
| `constant` | always |
| `cosine` with `decaySteps` | always; after `decaySteps` the learning rate stays at its minimum |
| `cosine` without | during the warm-up |
| `wsd` | until the decay begins, `decaySteps` before the end, with the old number and with the new one |
| `phases`, or with `otherSchedules` | before the first step |

It must not be less than the finished steps, and must not change with `data.mixture.simulateTokens`, because the data then depends on it. A
run that has ended continues when it gets more steps. The API server checks against the step in the status, the operator against the newest
step that it knows, the trainer against the checkpoint. Each rejects with the same sentence, and a rejected edit does not stop a training
run.
"""


def render() -> str:
    """The text of the page."""
    parts = [_HEADER + "".join(f"| {_name(edit)} | {meaning} |\n" for edit, meaning in MEANINGS.items())]
    for edit in MEANINGS:
        rows = [row for row in EDIT_RULES if row.edit == edit]
        parts.append(
            f"## {_name(edit)}\n\n| field | why |\n|---|---|\n"
            + "".join(f"| `{row.path}` | {row.why} |\n" for row in rows)
        )
    parts.append(_STARTS_AGAIN.format(fields=", ".join(f"`{row.path}`" for row in EDIT_RULES if not row.starts_again)))
    parts.append(_STEPS)
    parts.append(
        "## Field by field\n\n| field | class |\n|---|---|\n"
        + "".join(_line(leaf.path) for leaf in leaves_of(TrainingRunSpec))
    )
    return "\n".join(parts)


def _line(path: str) -> str:
    return f"| `{path}` | {_name(class_of(path))} |\n"


def _name(edit: EditClass) -> str:
    return {"live": "live", "atCheckpoint": "at a checkpoint", "frozen": "frozen"}[edit]
