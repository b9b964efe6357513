"""Checkpoints that cannot lie: fenced writers, atomic commits, every byte under a hash, fallback to an older one that verifies.

``docs/design/checkpoints.md`` has the protocol and its reasons.
"""

from halcyon.checkpoint.checkpointer import Checkpointer
from halcyon.checkpoint.failures import SaveFailed
from halcyon.checkpoint.inspection import Listing, list_checkpoints, verify_checkpoint
from halcyon.checkpoint.results import Limits, Restored, SaveReport
from halcyon.checkpoint.world import World

__all__ = ["Checkpointer", "Limits", "Listing", "Restored", "SaveFailed", "SaveReport", "World", "list_checkpoints", "verify_checkpoint"]
