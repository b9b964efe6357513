"""The former place of `halcyon.data.order.permutation`."""

from halcyon.data.order.permutation import MAX_SIZE, Permutation

__all__ = ["MAX_SIZE", "Permutation"]
