"""What can be wrong with a file, as one sentence for the user.

The code that reads knows the file and what happened; only the entrances of this package (`list_files`, `pieces`, `read_piece`) know which
field of the run document named it. So the readers raise `Unreadable` and the entrances put the field in front.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from halcyon.errors import BadConfiguration


class Unreadable(Exception):
    """A file cannot be read as what it should be. The message names the file, what is wrong and the mend."""


@contextmanager
def blamed_on(where: str) -> Iterator[None]:
    """Turn `Unreadable` into `BadConfiguration` that begins with a field, such as ``spec.data.sources[web].jsonl``."""
    try:
        yield
    except Unreadable as failure:
        raise BadConfiguration(f"{where}: {failure}") from failure.__cause__


def reason(error: BaseException) -> str:
    """The first line of an error, short enough to read."""
    text = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
