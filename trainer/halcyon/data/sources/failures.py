"""Errors about files, as one sentence for the user.

The readers know the file and the error. Only the public functions of this package (`list_files`, `pieces`,
`read_piece`) know the field of the run document that named the file. So the readers raise `Unreadable`, and the public
functions put the field in front of its message.

Temporary errors are `Unreachable`: no answer, an answer of an overloaded store, rejected credentials. Other errors
would be the same at the next try: a file that does not exist, has changed, or does not have its format.
"""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from halcyon.host.errors import BadConfiguration, DataUnreachable

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
"""Explanations by type of error or by HTTP status."""
_REFUSED = re.compile(
    r"(?:<Code>|\"code\": "
    r"?\")(ExpiredToken|ExpiredTokenException|TokenRefreshRequired|InvalidToken|RequestTimeTooSkewed|RequestExpired"
    r"|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied)\b"
)
"""Error codes of S3 for rejected credentials or a wrong clock; some gateways send them with a status of another
meaning.
"""
_LASTING_STATUS = frozenset({"404", "405", "406", "410", "411", "413", "414", "415", "416", "501", "505"})
"""Permanent HTTP statuses: a retry would get the same answer."""
_LASTING_TYPES = frozenset(
    {"FileNotFoundError", "NotFoundError", "NotSupportedError", "InvalidPathError", "UnknownConfigurationKeyError"}
)
_AWAY = (
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EAGAIN,
)
"""Error numbers of a file system whose server or process does not answer."""


class Unreadable(Exception):
    """A file cannot be read. The message names the file, the problem and the fix."""

    rows: int | None = None
    """Rows of the file before the problem; None: not known."""


class Unreachable(Unreadable):
    """A file cannot be read now; a later try may succeed."""


class Replaced(Unreadable):
    """A file is not as it was listed, so the listing must be made again."""


def may_skip(error: Unreadable) -> bool:
    """Whether a file with this problem may be left out: the problem would be the same at every try."""
    return not isinstance(error, Unreachable | Replaced)


def unreadable(message: str, error: BaseException) -> Unreadable:
    """The exception to raise for an error: `Unreachable` if a later try may succeed, else `Unreadable`."""
    if is_outage(error):
        return Unreachable(message)
    is_gone = type(error).__name__ in ("FileNotFoundError", "NotFoundError")
    return (Replaced if is_gone else Unreadable)(message)


def is_outage(error: BaseException) -> bool:
    """Whether an error may be temporary."""
    if isinstance(error, Unreadable):
        return isinstance(error, Unreachable)
    if not is_remote(error):
        return isinstance(error, OSError) and (
            error.errno in _AWAY or isinstance(error, ConnectionError | TimeoutError)
        )
    text = _answer(error)
    if _REFUSED.search(text):
        return True
    status = _status(error)
    return (
        "without LOCATION" not in text and type(error).__name__ not in _LASTING_TYPES and status not in _LASTING_STATUS
    )


@contextmanager
def errors_at(where: str) -> Iterator[None]:
    """Turn `Unreadable` into `BadConfiguration`, and `Unreachable` into `DataUnreachable`, with the field ``where`` in
    front.

    Args:
        where: A field of the run document, such as ``spec.data.sources[web].jsonl``.
    """
    try:
        yield
    except Unreachable as failure:
        raise DataUnreachable(f"{where}: {failure}") from failure.__cause__
    except Unreadable as failure:
        raise BadConfiguration(f"{where}: {failure}") from failure.__cause__


def reason(error: BaseException) -> str:
    """The first line of an error, at most 200 characters.

    Of a server's error only the status, because its text holds the answer.
    """
    if is_remote(error):
        return _remote_reason(error)
    text = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"


def is_remote(error: BaseException) -> bool:
    """Whether a client of remote stores raised the error.

    `obstore` raises built-in errors too, but without an error number.
    """
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
    match = _STATUS.search(str(error))
    return None if match is None else match[1] or match[2]


def _answer(error: BaseException) -> str:
    """The answer of a server, without the address of the request. Never put it into a message or a log."""
    text = str(error).partition("\n\nDebug source:")[0]
    match = _STATUS.search(text)
    return text[match.end() :] if match is not None else text
