"""The sentences of events that a format of their fields cannot say, and what events change in the state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halcyon.telemetry.events.row import Change, Fields, Words
from halcyon_api.counting import counted
from halcyon_api.result_documents import task_title
from halcyon_api.status.evaluation import Evaluation, with_source

if TYPE_CHECKING:
    from halcyon.telemetry.state import State


def _joined(fields: Fields) -> str:
    devices = counted(fields["devices"], "device")
    if fields["processes"] == 1:
        return f"on {devices}"
    return f"{counted(fields['processes'], 'process', 'processes')}, {devices} in {fields['seconds']:.1f} s"


def _placed(fields: Fields) -> str:
    slices = fields.get("slices") or 1
    shape = f" {fields['topology']}" if fields.get("topology") else ""
    place = f"{counted(slices, 'slice')} of {fields['accelerator']}{shape}, {counted(fields['devices'], 'device')}"
    origin = fields.get("from_run") or fields.get("from_root")
    return f"trains on {place}" + (f"; begins from {origin}" if origin else "")


def _tokenized(fields: Fields) -> str:
    done = "tokenized" if fields["finished"] else "tokenized so far"
    return (
        f"{fields['source']}: {counted(fields['tokens'], 'token')} of {counted(fields['documents'], 'document')} {done}"
    )


def _restored(fields: Fields) -> str:
    start, path = f"start {fields['start']}: " if fields.get("start") else "", fields.get("path")
    if not path:
        return f"{start}begins at step 0 with new parameters"
    return f"{start}goes on from step {fields['step']} ({path})" if fields["step"] else f"{start}begins with {path}"


def _evaluation(fields: Fields) -> str:
    part = fields.get("source") or fields.get("tag")
    where = f"step {fields['step']}" + (f", {part}" if part else "")
    if "pass_at" in fields:
        passes = ", ".join(f"pass@{k} {rate:z.4f}" for k, rate in fields["pass_at"].items())
        return f"{where}: held-out reward {fields['reward']:z.4f} of {counted(fields['sequences'], 'prompt')}, {passes}"
    of = f" of {counted(fields['sequences'], 'sequence')}" if "sequences" in fields else ""
    average = f"; of the average {fields['average_loss']:z.4f}" if fields.get("average_loss") is not None else ""
    right = f", accuracy {fields['accuracy']:z.4f}" if "accuracy" in fields else ""
    return f"{where}: held-out loss {fields['loss']:z.4f}{of}{right}{_bits(fields)}{average}"


def _evaluated(state: State, of: Fields, report: tuple[Evaluation, Evaluation | None] | None) -> State:
    if report is None:  # a part of an evaluation while the run trains
        return state
    evaluation, average = report
    if (source := of.get("source")) is None:
        losses = {"evaluation_loss": evaluation.loss, "average_loss": average and average.loss}
        return state.plus(evaluations=1).but(bits_per_byte=evaluation.bits_per_byte, **losses)
    return state if state.evaluated is None else state.but(evaluated=with_source(state.evaluated, source, evaluation))


def _bits(fields: Fields) -> str:
    """The bits per byte of an evaluation as the end of a sentence; empty without them."""
    return f", {fields['bits_per_byte']:z.4f} bits per byte" if fields.get("bits_per_byte") is not None else ""


def _task(fields: Fields) -> str:
    titles = {
        "accuracy": "",
        "standard_error": "standard error ",
        "centred": "centred ",
        "bits_per_byte": "bits per byte ",
        "word_error_rate": "word error rate ",
    }
    numbers = (f"{title}{fields[key]:z.4f}" for key, title in titles.items() if fields.get(key) is not None)
    return f"step {fields['step']}: {task_title(fields['task'], fields.get('tasks'))} {', '.join(numbers)}"


def _collective(of: Fields) -> str:
    reached, promised = of["bus_bandwidth"] / 1e9, of.get("promised")
    share = f", {1e11 * reached / promised:.0f} % of {promised / 1e9:.0f}" if promised else ""
    return (
        f"{of['kind']} ({of['over']}), {of['devices']} devices, {of['size_bytes'] / 2**20:.0f} MiB: "
        f"{1e3 * of['seconds']:.2f} ms, {reached:.2f} GB/s{share}"
    )


WORDS: dict[str, Words] = {
    "joined": _joined,
    "placed": _placed,
    "tokenized": _tokenized,
    "devices": lambda of: (
        f"a device computes {of['flops'] / 1e12:.2f} TFLOP/s and moves {of['memory_bandwidth'] / 1e9:.0f} GB/s"
    ),
    "restored": _restored,
    "compiled": lambda of: f"first step after {sum(of[name] for name in of if name.endswith('_seconds')):.1f} s",
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
    "checkpoint": lambda of: f"step {of['step']}: checkpoint committed, {of['size_bytes'] / 1e6:.1f} MB",
    "profiled": lambda of: f"step {of['step']}: profile of {counted(of['steps'], 'step')} in {of['path']}",
    "collective": _collective,
}
CHANGES: dict[str, Change] = {
    "rolledBack": lambda state, of, _: state.went_back(of["to_step"]),
    "evaluation": _evaluated,
    "checkpoint": lambda state, of, committed: (
        state.newest(committed).but(checkpoint_error=None).plus(checkpoint_blocked_seconds=of["blocked_seconds"] or 0.0)
    ),
    "checkpointVerified": lambda state, of, _: state.verified(of["step"]),
    "exported": lambda state, of, _: state.but(exported_step=max(of["step"], state.exported_step or 0)),
}
