"""Events of the log, and stages of the process, as sentences for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halcyon_api.counting import counted
from halcyon_api.result_documents import CHAT_CORE, CORE, core_title
from halcyon_api.status.progress import Stage

COMPILING = "compiling the step (first time, about a minute)"
STAGES: dict[Stage, str] = {
    "starting": "starting",
    "joining": "looking for devices",
    "tokenizing": "tokenizing the text",
    "restoring": "preparing the model",
    "compiling": COMPILING,
    "evaluating": "evaluating",
    "auditing": "auditing the devices",
    "saving": "saving",
    "leaving": "saving the last step",
}
"""What a process does in a stage that is not training."""
UNSEEN = frozenset({"watch", "placed"})
"""Events with too many numbers for a terminal; they are for the report of a chain."""


def joined(fields: Mapping[str, Any]) -> str:
    """The event ``joined``."""
    devices = counted(fields["devices"], "device")
    if fields["processes"] == 1:
        return f"on {devices}"
    return f"{counted(fields['processes'], 'process', 'processes')}, {devices} in {fields['seconds']:.1f} s"


def tokenized(fields: Mapping[str, Any]) -> str:
    """The event ``tokenized``."""
    done = "tokenized" if fields["finished"] else "tokenized so far"
    return (
        f"{fields['source']}: {counted(fields['tokens'], 'token')} of {counted(fields['documents'], 'document')} {done}"
    )


def restored(fields: Mapping[str, Any]) -> str:
    """The event ``restored``."""
    start, path = f"start {fields['start']}: " if fields.get("start") else "", fields.get("path")
    if not path:
        return f"{start}begins at step 0 with new parameters"
    return f"{start}goes on from step {fields['step']} ({path})" if fields["step"] else f"{start}begins with {path}"


def evaluation(fields: Mapping[str, Any]) -> str:
    """The event ``evaluation``."""
    part = fields.get("source") or fields.get("tag")
    where = f"step {fields['step']}" + (f", {part}" if part else "")
    if "pass_at" in fields:
        passes = ", ".join(f"pass@{k} {rate:z.4f}" for k, rate in fields["pass_at"].items())
        return f"{where}: held-out reward {fields['reward']:z.4f} of {counted(fields['sequences'], 'prompt')}, {passes}"
    of = f" of {counted(fields['sequences'], 'sequence')}" if "sequences" in fields else ""
    average = f"; of the average {fields['average_loss']:z.4f}" if fields.get("average_loss") is not None else ""
    return f"{where}: held-out loss {fields['loss']:z.4f}{of}{bits(fields)}{average}"


def bits(fields: Mapping[str, Any]) -> str:
    """The bits per byte of an evaluation as the end of a sentence; empty without them."""
    return f", {fields['bits_per_byte']:z.4f} bits per byte" if fields.get("bits_per_byte") is not None else ""


def task(fields: Mapping[str, Any]) -> str:
    """The event ``task`` in a few words, without its step."""
    titles = {"accuracy": "", "standard_error": "standard error ", "centred": "centred "}
    titles |= {"bits_per_byte": "bits per byte "}
    numbers = (f"{title}{fields[key]:z.4f}" for key, title in titles.items() if fields.get(key) is not None)
    return f"{task_title(fields['task'], fields.get('tasks'))} {', '.join(numbers)}"


def task_title(name: str, tasks: int | None) -> str:
    """The name of a task or of an average for readers.

    Args:
        name: Its name in the event ``task``.
        tasks: The number of tasks in the average `core`.
    """
    return core_title(tasks or 0) if name == CORE else "ChatCORE" if name == CHAT_CORE else name


def placed(fields: Mapping[str, Any]) -> str:
    """The event ``placed`` in a few words."""
    slices = fields.get("slices") or 1
    shape = f" {fields['topology']}" if fields.get("topology") else ""
    place = f"{counted(slices, 'slice')} of {fields['accelerator']}{shape}, {counted(fields['devices'], 'device')}"
    origin = fields.get("from_run") or fields.get("from_root")
    return f"trains on {place}" + (f"; begins from {origin}" if origin else "")


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
