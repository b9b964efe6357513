"""Events of the log, and stages of the process, as sentences for people. Pure."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from halcyon.telemetry.event_fields import placed_words, task_words
from halcyon_api.counting import counted
from halcyon_api.status.progress import Stage

COMPILING = "compiling the step (first time, about a minute)"
STAGES: dict[Stage, str] = {
    "starting": "starting",
    "joining": "looking for devices",
    "tokenizing": "tokenizing the text",
    "restoring": "preparing the model",
    "compiling": COMPILING,
    "evaluating": "evaluating",
    "saving": "saving",
    "leaving": "saving the last step",
}
"""What a process does in a stage that is not training."""
UNSEEN = frozenset({"watch", "placed"})
"""Events with too many numbers for a terminal; they are for the report of a chain."""

_SENTENCES = {
    "start": "process {process_id}",
    "attention": "attention: {implementation}, because {reason}",
    "determinism": "repeated steps: {determinism}; {meaning}",
    "plan": "plan: {plan}",
    "audited": "step {step}: the audit found all numbers right",
    "skipped": "step {step}: the update was dropped: {reason}",
    "checkpointVerified": "step {step}: the checkpoint was read back, and every byte is intact",
    "checkpointFailed": "step {step}: checkpoint failed: {reason}",
    "exported": "step {step}: exported to {path}",
    "exportFailed": "step {step}: export failed: {reason}",
    "headRebuilt": "HEAD was rebuilt from the checkpoints: {reason}",
    "sample": "step {step}, the model writes: {prompt}{text}",
    "fallback": "fell back to step {step}: {reason}",
    "hung": "no step or stage has ended for {seconds:.0f} s, and the limit is {limit_seconds:.0f} s",
}
"""Events as sentences, where nothing but their fields is needed."""


def sentence(name: str, fields: dict[str, Any]) -> str:
    """One event as a sentence."""
    step = fields.get("step", 0)
    if name == "evaluation":
        return _evaluation(step, fields)
    if name == "task":
        return f"step {step}: {task_words(fields)}"
    if name == "placed":
        return placed_words(fields)
    if name == "watch":
        return (
            f"step {step}: {fields['statistic']} of the {fields['of']} of {counted(len(fields['parameters']), 'array')}"
        )
    if name == "macroEvaluation":
        bits = f", {fields['bits_per_byte']:z.4f} bits per byte" if fields.get("bits_per_byte") is not None else ""
        return f"step {step}: mean held-out loss of the sources {fields['loss']:z.4f}{bits}"
    if name == "checkpoint":
        return f"step {step}: checkpoint committed, {fields['size_bytes'] / 1e6:.1f} MB"
    if name == "rolledBack":
        left_out = counted(fields["batches"], "batch", "batches")
        return f"step {step}: went back to step {fields['to_step']} and left out {left_out}: {fields['reason']}"
    if name == "profiled":
        return f"step {step}: profile of {counted(fields['steps'], 'step')} in {fields['path']}"
    if name == "restored":
        return _restored(step, fields)
    if name == "tokenized":
        done = "tokenized" if fields["finished"] else "tokenized so far"
        tokens, documents = counted(fields["tokens"], "token"), counted(fields["documents"], "document")
        return f"{fields['source']}: {tokens} of {documents} {done}"
    if name == "joined":
        devices = counted(fields["devices"], "device")
        if fields["processes"] == 1:
            return f"on {devices}"
        return f"{counted(fields['processes'], 'process', 'processes')}, {devices} in {fields['seconds']:.1f} s"
    if name == "compiled":
        return f"first step after {sum(value for key, value in fields.items() if key.endswith('_seconds')):.1f} s"
    if name in _SENTENCES:
        with suppress(KeyError):  # an event of another version
            return _SENTENCES[name].format_map({"step": step, **fields})
    if "message" in fields:
        return str(fields["message"])
    details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fields.items() if value is not None)
    return f"{name}: {details}" if details else name


def _restored(step: int, fields: dict[str, Any]) -> str:
    start = f"start {fields['start']}: " if fields.get("start") else ""
    if not fields.get("path"):
        return f"{start}begins at step 0 with new parameters"
    return f"{start}goes on from step {step} ({fields['path']})" if step else f"{start}begins with {fields['path']}"


def _evaluation(step: int, fields: dict[str, Any]) -> str:
    bits, part = fields.get("bits_per_byte"), fields.get("source") or fields.get("tag")
    where = f"step {step}, {part}" if part else f"step {step}"
    if "pass_at" in fields:
        passes = ", ".join(f"pass@{k} {rate:z.4f}" for k, rate in fields["pass_at"].items())
        return f"{where}: held-out reward {fields['reward']:z.4f} of {counted(fields['sequences'], 'prompt')}, {passes}"
    of = f" of {counted(fields['sequences'], 'sequence')}" if "sequences" in fields else ""
    return (
        f"{where}: held-out loss {fields['loss']:z.4f}{of}"
        + (f", {bits:z.4f} bits per byte" if bits is not None else "")
        + (f"; of the average {fields['average_loss']:z.4f}" if fields.get("average_loss") is not None else "")
    )


def step_line(fields: dict[str, Any], steps: int, smoothed: float, width: int | None) -> str:
    """The line about a step that stays on the screen.

    Args:
        fields: The event ``step``.
        steps: Steps of the whole run.
        smoothed: Smoothed loss, nats per token.
        width: Columns of the terminal; None: no limit. Where it is small, the speed is left out.
    """
    line = f"step {fields['step']}/{steps}  smoothed loss {smoothed:z.4f}"
    if not fields.get("tokens_per_second"):
        return line
    speed, left = f"  {fields['tokens_per_second']:,.0f} tok/s", f"  {duration(fields['eta_seconds'])} left"
    whole = line + speed + left
    return whole if width is None or len(whole) < width else line + left


def line_steps(steps: int) -> int:
    """Steps between two lines that stay on the screen: about 20 lines in a short run, and one every 100 steps at the
    least.
    """
    return next((size for size in (1, 2, 5, 10, 20, 50) if 20 * size >= steps), 100)


def duration(seconds: float) -> str:
    """Format seconds for people: ``0:42``, ``12:05``, ``3:20:00``, ``2d 4h``."""
    whole = round(seconds)
    if whole >= 172_800:
        return f"{whole // 86_400}d {whole % 86_400 // 3600}h"
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
