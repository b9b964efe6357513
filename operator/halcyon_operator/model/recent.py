"""A dictionary that forgets what was not used for long, so that no number of runs fills the operator's memory. Pure."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(OrderedDict[K, V]):
    """The values that were set or recalled last.

    Args:
        most: Number of values; beyond it, the one that was not used for longest is dropped.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self._most:
            self.popitem(last=False)

    def recall(self, key: K, make: Callable[[], V]) -> V:
        """The value of a key, made if it is missing."""
        if key not in self:
            self[key] = make()
        self.move_to_end(key)
        return self[key]
