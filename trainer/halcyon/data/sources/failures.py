"""What can be wrong with a file, as one sentence for the user.

The code that reads knows the file and what happened; only the entrances of this package (`list_files`, `pieces`, `read_piece`) know which
field of the run document named it. So the readers raise `Unreadable` and the entrances put the field in front.

What may be over in a while is `Unreachable`: no answer, an answer of an overloaded store, credentials that are refused. The rest would be
the same at the next try: a file that does not exist, that changed, or that is not what its format says.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from halcyon.errors import BadConfiguration, DataUnreachable

_STATUS = re.compile(r"(?:status(?: code)?:? \(?|HTTP )([1-5][0-9]{2})\b|\b([45][0-9]{2}) (?:Client|Server) Error")
_MEANINGS: dict[str, str] = {
    "FileNotFoundError": "it does not exist",
    "NotFoundError": "it does not exist",
    "PermissionDeniedError": "access is denied",
    "UnauthenticatedError": "the credentials are not accepted",
    "TimeoutError": "no answer in time",
    "401": "the credentials are not accepted",
    "403": "access is denied",
}
"""By type of error, or by HTTP status."""
_REFUSED = re.compile(
    r"(?:<Code>|\"code\": ?\")(ExpiredToken|ExpiredTokenException|TokenRefreshRequired|InvalidToken|RequestTimeTooSkewed|RequestExpired"
    r"|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied)\b"
)
"""Error codes of S3 for credentials or a clock that are not accepted; some gateways send them with a status that says something else."""
_LASTING_STATUS = frozenset({"404", "405", "406", "410", "411", "413", "414", "415", "416", "501", "505"})
"""Answers to a request that would be answered so again."""
_LASTING_TYPES = frozenset({"FileNotFoundError", "NotFoundError", "NotSupportedError", "InvalidPathError", "UnknownConfigurationKeyError"})
_AWAY = frozenset(
    {
        *(errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EAGAIN),
    }
)
"""What a file system says whose server, or whose process, is away."""


class Unreadable(Exception):
    """A file cannot be read as what it should be. The message names the file, the problem and the fix."""


class Unreachable(Unreadable):
    """A file cannot be read now, and may be another time."""


def unreadable(message: str, error: BaseException) -> Unreadable:
    """What is raised because of an error: `Unreachable` where a later try may go well."""
    return (Unreachable if is_outage(error) else Unreadable)(message)


def is_outage(error: BaseException) -> bool:
    """Whether an error may be over in a while."""
    if isinstance(error, Unreadable):
        return isinstance(error, Unreachable)
    if not _is_remote(error):
        return isinstance(error, OSError) and (error.errno in _AWAY or isinstance(error, ConnectionError | TimeoutError))
    text = _answer(error)
    if _REFUSED.search(text):
        return True
    status = _status(error)
    return "without LOCATION" not in text and type(error).__name__ not in _LASTING_TYPES and status not in _LASTING_STATUS


@contextmanager
def blamed_on(where: str) -> Iterator[None]:
    """Turn `Unreadable` into `BadConfiguration` or `DataUnreachable` that begins with a field, as ``spec.data.sources[web].jsonl``."""
    try:
        yield
    except Unreachable as failure:
        raise DataUnreachable(f"{where}: {failure}") from failure.__cause__
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
    status, refused = _status(error), _REFUSED.search(_answer(error))
    answered = [f"HTTP status {status}"] if status else []
    if refused is not None:
        answered.append(refused[1])
    meaning = _MEANINGS.get(type(error).__name__) or _MEANINGS.get(status or "")
    if meaning is not None and (refused is None or type(error).__name__ not in _LASTING_TYPES):
        return f"{meaning} ({', '.join(answered)})" if answered else meaning
    if status is not None:
        return f"the server answered with {' '.join(answered)}"
    return (
        f"no connection ({type(error).__name__})"
        if "error sending request" in str(error)
        else f"the request failed ({type(error).__name__})"
    )


def _status(error: BaseException) -> str | None:
    """The HTTP status of an error's answer, if there was one."""
    response = getattr(error, "response", None)  # of the clients of the Hugging Face hub
    code = getattr(response, "status_code", None)
    if isinstance(code, int):
        return str(code)
    found = _STATUS.search(str(error))
    return None if found is None else found[1] or found[2]


def _answer(error: BaseException) -> str:
    """What a server answered, without the address that was asked. Never to be repeated."""
    text = str(error).partition("\n\nDebug source:")[0]
    found = _STATUS.search(text)
    return text[found.end() :] if found is not None else text
