"""The settings of one configuration, and which of them were used. Pure."""

from collections.abc import Iterator
from typing import Any, cast

Spec = dict[str, Any]


class Settings:
    """A nested document whose values are taken one by one; what nobody took is named at the end.

    Args:
        document: The document. It is changed: what was taken is no longer in it.
    """

    def __init__(self, document: Spec) -> None:
        self._document = document

    def take(self, path: str, default: Any = None) -> Any:
        """The value at a path such as ``trainer.mp``; the default if it is absent or null. It counts as used."""
        above, last = self._above(path)
        found = above.pop(last, None)
        return default if found is None else found

    def peek(self, path: str, default: Any = None) -> Any:
        """As `take`, but it does not count as used."""
        above, last = self._above(path)
        found = above.get(last)
        return default if found is None else found

    def first(self, *paths: str, default: Any = None) -> Any:
        """The first value that is there; all count as used."""
        found = [self.take(path) for path in paths]
        return next((one for one in found if one is not None), default)

    def has(self, path: str) -> bool:
        """Whether there is a value at a path."""
        return self.peek(path) is not None

    def drop(self, path: str) -> list[str]:
        """Take all below a path; returns the paths of its values."""
        return list(_leaves(self.take(path), path))

    def left(self) -> Iterator[str]:
        """The paths that nobody took. A value that is null says nothing, so it is not among them."""
        return _leaves(self._document)

    def _above(self, path: str) -> tuple[Spec, str]:
        *above, last = path.split(".")
        node: Any = self._document
        for part in above:
            node = cast("Spec", node).get(part) if isinstance(node, dict) else None
        return (cast("Spec", node) if isinstance(node, dict) else {}), last


def _leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for name, value in cast("Spec", node).items():
            yield from _leaves(value, f"{path}.{name}" if path else str(name))
    elif node is not None:
        yield path


def put(target: Spec, path: str, value: Any) -> None:
    """Set ``target[a][b]`` for the path ``a.b``, unless the value is None."""
    if value is None:
        return
    *above, last = path.split(".")
    for part in above:
        target = target.setdefault(part, {})
    target[last] = value
