"""The sentences of checkpoints, profiles and measurements, and what they change."""

from collections.abc import Mapping
from typing import Any

from halcyon.telemetry.events.row import Change, Words
from halcyon_api.counting import counted


def _collective(of: Mapping[str, Any]) -> str:
    reached, promised = of["bus_bandwidth"] / 1e9, of.get("promised")
    share = f", {1e11 * reached / promised:.0f} % of {promised / 1e9:.0f}" if promised else ""
    return (
        f"{of['kind']} ({of['over']}), {of['devices']} devices, {of['size_bytes'] / 2**20:.0f} MiB: "
        f"{1e3 * of['seconds']:.2f} ms, {reached:.2f} GB/s{share}"
    )


WORDS: dict[str, Words] = {
    "checkpoint": lambda of: f"step {of['step']}: checkpoint committed, {of['size_bytes'] / 1e6:.1f} MB",
    "profiled": lambda of: f"step {of['step']}: profile of {counted(of['steps'], 'step')} in {of['path']}",
    "collective": _collective,
}
CHANGES: dict[str, Change] = {
    "checkpoint": lambda state, of, committed: (
        state.newest(committed).but(checkpoint_error=None).plus(checkpoint_blocked_seconds=of["blocked_seconds"] or 0.0)
    ),
    "checkpointVerified": lambda state, of, _: state.verified(of["step"]),
    "exported": lambda state, of, _: state.but(exported_step=max(of["step"], state.exported_step or 0)),
}
