"""The sentences of the steps and the evaluations, and what they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from halcyon.telemetry.events.row import Change, Words
from halcyon_api.counting import counted
from halcyon_api.result_documents import task_title
from halcyon_api.status.evaluation import Evaluation, with_source

if TYPE_CHECKING:
    from halcyon.telemetry.state import State


def _evaluation(fields: Mapping[str, Any]) -> str:
    part = fields.get("source") or fields.get("tag")
    where = f"step {fields['step']}" + (f", {part}" if part else "")
    if "pass_at" in fields:
        passes = ", ".join(f"pass@{k} {rate:z.4f}" for k, rate in fields["pass_at"].items())
        return f"{where}: held-out reward {fields['reward']:z.4f} of {counted(fields['sequences'], 'prompt')}, {passes}"
    of = f" of {counted(fields['sequences'], 'sequence')}" if "sequences" in fields else ""
    average = f"; of the average {fields['average_loss']:z.4f}" if fields.get("average_loss") is not None else ""
    right = f", accuracy {fields['accuracy']:z.4f}" if "accuracy" in fields else ""
    return f"{where}: held-out loss {fields['loss']:z.4f}{of}{right}{_bits(fields)}{average}"


def _evaluated(state: State, of: Mapping[str, Any], report: tuple[Evaluation, Evaluation | None] | None) -> State:
    if report is None:  # a part of an evaluation while the run trains
        return state
    evaluation, average = report
    if (source := of.get("source")) is None:
        losses = {"evaluation_loss": evaluation.loss, "average_loss": average and average.loss}
        return state.plus(evaluations=1).but(bits_per_byte=evaluation.bits_per_byte, **losses)
    return state if state.evaluated is None else state.but(evaluated=with_source(state.evaluated, source, evaluation))


def _bits(fields: Mapping[str, Any]) -> str:
    """The bits per byte of an evaluation as the end of a sentence; empty without them."""
    return f", {fields['bits_per_byte']:z.4f} bits per byte" if fields.get("bits_per_byte") is not None else ""


def _task(fields: Mapping[str, Any]) -> str:
    titles = {
        "accuracy": "",
        "standard_error": "standard error ",
        "centred": "centred ",
        "bits_per_byte": "bits per byte ",
        "word_error_rate": "word error rate ",
    }
    numbers = (f"{title}{fields[key]:z.4f}" for key, title in titles.items() if fields.get(key) is not None)
    return f"step {fields['step']}: {task_title(fields['task'], fields.get('tasks'))} {', '.join(numbers)}"


WORDS: dict[str, Words] = {
    "rolledBack": lambda of: (
        f"step {of['step']}: went back to step {of['to_step']} and left out "
        f"{counted(of['batches'], 'batch', 'batches')}: {of['reason']}"
    ),
    "watch": lambda of: (
        f"step {of['step']}: {of['statistic']} of the {of['of']} of {counted(len(of['parameters']), 'array')}"
    ),
    "evaluation": _evaluation,
    "macroEvaluation": lambda of: f"step {of['step']}: mean held-out loss of the sources {of['loss']:z.4f}{_bits(of)}",
    "task": _task,
}
CHANGES: dict[str, Change] = {
    "rolledBack": lambda state, of, _: state.went_back(of["to_step"]),
    "evaluation": _evaluated,
}
