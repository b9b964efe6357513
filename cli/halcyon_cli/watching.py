"""Follows one object, or all objects of a selector, through a watch.

Pure: the read, the watch and the pause are arguments.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any, TypeVar

Document = dict[str, Any]
Event = Mapping[str, Any]
Thing = TypeVar("Thing")


class WatchEnded(Exception):
    """A watch broke off or could not be opened. A new read finds what it missed."""


def documents(
    look: Callable[[], Document], watch: Callable[[str], Iterable[Event]], pause: Callable[[], None]
) -> Iterator[Document]:
    """Yield an object as it is now, then after every change, without end. The same version may come twice.

    Args:
        look: Reads the object; raises if it does not exist.
        watch: The events of the object after a resource version, `type` and `object`, until the server ends the watch.
            Raises WatchEnded.
        pause: Called before the next read after a watch has broken off, to avoid requests in a tight loop.
    """

    def found() -> tuple[list[Document], str]:
        document = look()
        return [document], document["metadata"]["resourceVersion"]

    # After a deletion the next read fails, or finds a new object of the same name.
    return each(found, lambda version: takewhile(lambda event: event["type"] != "DELETED", watch(version)), pause)


def each(
    look: Callable[[], tuple[Iterable[Thing], str]],
    watch: Callable[[str], Iterable[Event]],
    pause: Callable[[], None],
) -> Iterator[Thing]:
    """Yield objects as they are now, then each new or changed one, without end. One may come twice; deletions are not
    reported.

    Args:
        look: Reads all objects and the resource version of the list.
        watch: The events of the objects after a resource version, as for `documents`.
        pause: As for `documents`.
    """
    while True:
        found, version = look()
        yield from found
        try:
            yield from (event["object"] for event in watch(version) if event["type"] in ("ADDED", "MODIFIED"))
        except WatchEnded:
            pause()
