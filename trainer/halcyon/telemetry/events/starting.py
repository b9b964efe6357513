"""The sentences of a start, up to the first step."""

from collections.abc import Mapping
from typing import Any

from halcyon.telemetry.events.row import Words
from halcyon_api.counting import counted


def _joined(fields: Mapping[str, Any]) -> str:
    devices = counted(fields["devices"], "device")
    if fields["processes"] == 1:
        return f"on {devices}"
    return f"{counted(fields['processes'], 'process', 'processes')}, {devices} in {fields['seconds']:.1f} s"


def _placed(fields: Mapping[str, Any]) -> str:
    slices = fields.get("slices") or 1
    shape = f" {fields['topology']}" if fields.get("topology") else ""
    place = f"{counted(slices, 'slice')} of {fields['accelerator']}{shape}, {counted(fields['devices'], 'device')}"
    origin = fields.get("from_run") or fields.get("from_root")
    return f"trains on {place}" + (f"; begins from {origin}" if origin else "")


def _tokenized(fields: Mapping[str, Any]) -> str:
    done = "tokenized" if fields["finished"] else "tokenized so far"
    return (
        f"{fields['source']}: {counted(fields['tokens'], 'token')} of {counted(fields['documents'], 'document')} {done}"
    )


def _restored(fields: Mapping[str, Any]) -> str:
    start, path = f"start {fields['start']}: " if fields.get("start") else "", fields.get("path")
    if not path:
        return f"{start}begins at step 0 with new parameters"
    return f"{start}goes on from step {fields['step']} ({path})" if fields["step"] else f"{start}begins with {path}"


WORDS: dict[str, Words] = {
    "joined": _joined,
    "placed": _placed,
    "tokenized": _tokenized,
    "devices": lambda of: (
        f"a device computes {of['flops'] / 1e12:.2f} TFLOP/s and moves {of['memory_bandwidth'] / 1e9:.0f} GB/s"
    ),
    "restored": _restored,
    "compiled": lambda of: f"first step after {sum(of[name] for name in of if name.endswith('_seconds')):.1f} s",
}
