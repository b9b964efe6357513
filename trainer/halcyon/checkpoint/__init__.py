"""Checkpoints that cannot lie: fenced writers, atomic commits, every byte under a hash, fallback to an older one that verifies.

``docs/design/checkpoints.md`` has the protocol and its reasons.
"""

from halcyon.checkpoint.checkpointer import Checkpointer
from halcyon.checkpoint.inspection import Listing, list_checkpoints, verify_checkpoint
from halcyon.checkpoint.processes import Processes
from halcyon.checkpoint.results import Limits, Restored, SaveReport
from halcyon.storage.failures import SaveFailed

__all__ = [
    "Checkpointer",
    "Limits",
    "Listing",
    "Processes",
    "Restored",
    "SaveFailed",
    "SaveReport",
    "list_checkpoints",
    "verify_checkpoint",
]
