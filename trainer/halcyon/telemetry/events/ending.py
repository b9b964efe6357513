"""The sentences of checkpoints and profiles, and what they change."""

from halcyon.telemetry.events.row import Change, Words
from halcyon_api.counting import counted

WORDS: dict[str, Words] = {
    "checkpoint": lambda of: f"step {of['step']}: checkpoint committed, {of['size_bytes'] / 1e6:.1f} MB",
    "profiled": lambda of: f"step {of['step']}: profile of {counted(of['steps'], 'step')} in {of['path']}",
}
CHANGES: dict[str, Change] = {
    "checkpoint": lambda state, of, committed: (
        state.newest(committed).but(checkpoint_error=None).plus(checkpoint_blocked_seconds=of["blocked_seconds"] or 0.0)
    ),
    "checkpointVerified": lambda state, of, _: state.verified(of["step"]),
    "exported": lambda state, of, _: state.but(exported_step=max(of["step"], state.exported_step or 0)),
}
