"""What applying a run document would change in an existing run, and the effect of each change. Pure."""

from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.text import Text

from halcyon.commands.views.tables import FittedTable
from halcyon_api.edits.changes import Change, changes, shown, values_of
from halcyon_api.edits.classes import EditClass
from halcyon_api.edits.steps import steps_refusal
from halcyon_api.status.run_status import TrainingRunStatus
from halcyon_api.training_run import TrainingRunSpec

STEPS = "trainer.steps"
Outcome = Literal["nothing", "atOnce", "restart", "later", "refused"]
"""The effect of applying: none, at once, by a new attempt now, with the next attempt, or the document is rejected."""
_AT_ONCE = "at once"
_FROZEN = "refused: it must not change while the run exists; train it as a branch: a new run with spec.from"
_CLASSES: dict[EditClass, str] = {"live": "live", "atCheckpoint": "at a checkpoint", "frozen": "frozen"}
_STYLES: dict[Outcome, str] = {
    "nothing": "dim",
    "atOnce": "green",
    "restart": "yellow",
    "later": "yellow",
    "refused": "red",
}


@dataclass(frozen=True)
class Effect:
    """A field that differs, and the effect of applying it."""

    change: Change
    outcome: Outcome
    sentence: str


@dataclass(frozen=True)
class Difference:
    """All fields that differ, and the effect of applying all."""

    effects: tuple[Effect, ...]
    outcome: Outcome
    sentence: str


def difference(
    live: TrainingRunSpec, wanted: TrainingRunSpec, status: TrainingRunStatus, refusal: str = ""
) -> Difference:
    """Compare a run with a document of it.

    Args:
        live: The spec in the cluster.
        wanted: The spec in the document.
        status: The run's status.
        refusal: The API server's reason for rejecting the document; empty if it accepts it.
    """
    effects = tuple(_effect(change, live, wanted, status) for change in changes(values_of(live), values_of(wanted)))
    outcomes = [effect.outcome for effect in effects]
    if refusal or "refused" in outcomes:
        return Difference(effects, "refused", f"applying is refused: {refusal or _first(effects)}")
    if not effects:
        return Difference((), "nothing", "nothing differs")
    if "restart" in outcomes or "later" in outcomes:
        return Difference(effects, *_restart(status, wanted))
    if "atOnce" in outcomes:
        return Difference(effects, "atOnce", "applying takes effect at once, and training continues")
    return Difference(effects, "nothing", "the run has succeeded, so applying has no effect")


def _effect(change: Change, live: TrainingRunSpec, wanted: TrainingRunSpec, status: TrainingRunStatus) -> Effect:
    if change.edit == "frozen":
        return Effect(change, "refused", _FROZEN)
    if change.path == STEPS and live.task == "train":
        refusal = _steps_refusal(live, wanted, status)
        if refusal is not None:
            return Effect(change, "refused", f"refused: {refusal.removeprefix(f'spec.{STEPS}: ')}")
        if status.phase == "Succeeded" and wanted.trainer.steps > live.trainer.steps:
            return Effect(change, "restart", "the run goes on from its last checkpoint")
    if change.edit == "live":
        return Effect(change, "atOnce", _AT_ONCE)
    if status.phase == "Succeeded":
        return Effect(change, "nothing", "nothing: the run has succeeded")
    outcome, _ = _restart(status, wanted)
    return Effect(change, outcome, "with the next attempt" if outcome == "later" else "with a new attempt")


def _steps_refusal(live: TrainingRunSpec, wanted: TrainingRunSpec, status: TrainingRunStatus) -> str | None:
    done = max(status.progress.step if status.progress else 0, status.resume_step)
    rehearsal = wanted.data.mixture.simulate_tokens is not None
    return steps_refusal(
        live.optimizer, rehearsal=rehearsal, old=live.trainer.steps, new=wanted.trainer.steps, done=done
    )


def _restart(status: TrainingRunStatus, wanted: TrainingRunSpec) -> tuple[Outcome, str]:
    """Return the effect of changing a field of class atCheckpoint, given the run's phase."""
    match status.phase:
        case "Suspended" | "Suspending" if not wanted.suspend:
            return "restart", "applying resumes the run, from its last checkpoint"
        case "Suspended" | "Suspending":
            return "later", "applying takes effect when the run is resumed"
        case "Running" | "Starting" | "Restarting" | "Pending" | "Queued" if wanted.suspend:
            return "later", "applying suspends the run; the rest takes effect when it is resumed"
        case "Running":
            return "restart", "applying restarts the run at a checkpoint that is made for it: no step is lost"
        case "Succeeded":
            return "restart", "applying continues the run from its last checkpoint"
        case _:
            return "restart", "applying makes a new attempt at once; no step is lost, because nothing trains now"


def _first(effects: tuple[Effect, ...]) -> str:
    refused = next(effect for effect in effects if effect.outcome == "refused")
    return f"spec.{refused.change.path}: {refused.sentence.removeprefix('refused: ')}"


def difference_view(found: Difference) -> RenderableType:
    """Return a table of the fields that differ, and the sentence about the effect of applying."""
    last = Text(found.sentence, style=_STYLES[found.outcome])
    if not found.effects:
        return last
    table = FittedTable("field", "old", "new", "class", "applying it", drops=("class",))
    for effect in found.effects:
        old, new = Text(shown(effect.change.old)), Text(shown(effect.change.new))
        style = _STYLES[effect.outcome]
        table.add_row(
            Text(effect.change.path), old, new, _CLASSES[effect.change.edit], Text(effect.sentence, style=style)
        )
    return Group(table, Text(""), last)
