"""What can be wrong with a file, as one sentence for the user.

The code that reads knows the file and what happened; only the entrances of this package (`list_files`, `pieces`, `read_piece`) know which
field of the run document named it. So the readers raise `Unreadable` and the entrances put the field in front.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from halcyon.errors import BadConfiguration

_STATUS = re.compile(r"(?:status(?: code)?:? \(?|HTTP )([1-5][0-9]{2})\b|\b([45][0-9]{2}) (?:Client|Server) Error")
_MEANINGS: dict[str, str] = {
    "FileNotFoundError": "it does not exist",
    "NotFoundError": "it does not exist",
    "PermissionDeniedError": "access is denied",
    "UnauthenticatedError": "the credentials are not accepted",
    "TimeoutError": "no answer in time",
}


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
    """The first line of an error, short enough to read; of an error of a server only its status, for the text holds what it answered."""
    if _is_remote(error):
        return _remote_reason(error)
    text = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def _is_remote(error: BaseException) -> bool:
    """Whether the client of object stores raised it. It raises built-in errors too, which have no number then."""
    module = type(error).__module__
    return module.startswith(("obstore", "huggingface_hub", "httpx", "requests")) or (
        isinstance(error, FileNotFoundError | PermissionError) and error.errno is None
    )


def _remote_reason(error: BaseException) -> str:
    status = _STATUS.search(str(error))
    meaning = _MEANINGS.get(type(error).__name__)
    if meaning is not None:
        return meaning
    if status is not None:
        return f"the server answered with HTTP status {status[1] or status[2]}"
    return (
        f"no connection ({type(error).__name__})"
        if "error sending request" in str(error)
        else f"the request failed ({type(error).__name__})"
    )
