"""What a watch tells of one object, or of all that a selector names. Pure: who looks, watches and pauses comes as an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

Document = dict[str, Any]
Thing = TypeVar("Thing")


class WatchEnded(Exception):
    """A watch broke off, or is not to be had: what it missed is seen by looking."""


def documents(
    look: Callable[[], Document], watch: Callable[[str], Iterable[Mapping[str, Any]]], pause: Callable[[], None]
) -> Iterator[Document]:
    """An object as it is now, then after every change, for as long as somebody asks. One may come twice.

    Args:
        look: Reads the object; raises where there is none.
        watch: The events of the object after a resource version, `type` and `object`, until the server ends the watch. Raises WatchEnded.
        pause: Called before the next look when a watch has broken off, so that nobody is asked in a tight loop.
    """
    while True:
        document = look()
        yield document
        try:
            for event in watch(document["metadata"]["resourceVersion"]):
                if event["type"] == "DELETED":
                    break  # The next look says so, or finds what has taken its place.
                if event["type"] in ("ADDED", "MODIFIED"):
                    yield event["object"]
        except WatchEnded:
            pause()


def each(
    look: Callable[[], tuple[Iterable[Thing], str]], watch: Callable[[str], Iterable[Mapping[str, Any]]], pause: Callable[[], None]
) -> Iterator[Thing]:
    """Objects as they are now, then each that comes or changes, for as long as somebody asks. One may come twice; what goes is not told.

    Args:
        look: Reads all of them, and the resource version of the list.
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
