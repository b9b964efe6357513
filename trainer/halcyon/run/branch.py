"""What `halcyon train --branch` asks for. Importing this module imports no JAX."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Branch:
    """A branch of a run."""

    name: str
    """The end of the names of the branch and of its root."""
    step: int | None = None
    """Step of the run's checkpoint; None: the newest, or the one that the branch began from already."""
    weights_only: bool = False
    """Whether to take only the weights, and begin at step 0."""
