"""What a watch tells of one object, as a sequence of its documents. Pure: who looks, watches and pauses comes as an argument."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Document = dict[str, Any]


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
