"""What to do about a field that must not change in a run that has begun: train the change as a branch."""

from typing import Final

BRANCH_COMMAND: Final = "halcyon train run.yaml --branch NAME"
BRANCH: Final = f"train the change as a branch: {BRANCH_COMMAND} (in a cluster: a new run with spec.from)"
"""The end of a sentence that rejects a change."""
