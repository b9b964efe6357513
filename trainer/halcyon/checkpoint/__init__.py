"""The checkpoint engine: fenced writers, atomic commits, a hash over every byte, fallback to an older checkpoint that
verifies.

``docs/design/checkpoints.md`` describes the protocol and its reasons.
"""

from halcyon.checkpoint.checkpointer import Checkpointer
from halcyon.checkpoint.opening import Listing, list_checkpoints
from halcyon.checkpoint.processes import Processes
from halcyon.checkpoint.results import Callbacks, Limits, Restored, RunRecord, SaveReport
from halcyon.host.storage.failures import SaveFailed

__all__ = [
    "Callbacks",
    "Checkpointer",
    "Limits",
    "Listing",
    "Processes",
    "Restored",
    "RunRecord",
    "SaveFailed",
    "SaveReport",
    "list_checkpoints",
]
