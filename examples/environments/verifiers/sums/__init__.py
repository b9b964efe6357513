"""A task set of verifiers: sums, with a tool that adds."""

from sums.taskset import SumTaskset

__all__ = ["SumTaskset"]
