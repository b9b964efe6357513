"""Errors of a request, in the form of OpenAI's interface."""

from typing import Any

_LONGEST_NAME = 100
_LONGEST_SENTENCE = 1000
_LONGEST_PARAM = 200


def shown(name: str) -> str:
    """A name that a client gave, as errors repeat it: in quotes, without control characters, and cut if it is long."""
    return repr(name) if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]!r}…"


class ApiError(Exception):
    """A request is not answered.

    Args:
        status: The HTTP status.
        message: One sentence for the user. A very long one is cut, because a part of it may come from the client.
        kind: The error's ``type``.
        param: The field that is wrong.
        code: A word for programs.
        retry_after_seconds: When the client may try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message if len(message) <= _LONGEST_SENTENCE else f"{message[:_LONGEST_SENTENCE]}…")
        self.status, self.kind, self.code = status, kind, code
        self.param = None if param is None else param[:_LONGEST_PARAM]
        self.retry_after_seconds = retry_after_seconds
        self.is_counted = False
        """Whether the metrics have the request already."""

    @property
    def document(self) -> dict[str, Any]:
        """The body of the answer."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Further headers of the answer."""
        headers = {} if self.retry_after_seconds is None else {"Retry-After": str(self.retry_after_seconds)}
        return headers | ({"WWW-Authenticate": "Bearer"} if self.status == 401 else {})


def check_model(name: str | None, served: str) -> None:
    """Check the name of the model that a request asks for.

    Raises:
        ApiError: The server has another one.
    """
    if name not in (None, served):
        sentence = f"there is no model {shown(str(name))}; this server has {served!r}"
        raise ApiError(404, sentence, param="model", code="model_not_found")


def invalid(message: str, field: str | None = None, code: str | None = None, *, place: str | None = None) -> ApiError:
    """The request must be changed.

    Args:
        message: What is wrong.
        field: The field that is wrong; the sentence begins with it.
        code: A word for programs.
        place: What the sentence begins with instead, such as a part of the field.
    """
    place = place or field
    return ApiError(400, message if place is None else f"{place}: {message}", param=field, code=code)


def overloaded(retry_after_seconds: int) -> ApiError:
    """The server has as many texts as it takes."""
    return ApiError(
        429,
        "the server has as many requests as it takes; try again later",
        "rate_limit_error",
        code="overloaded",
        retry_after_seconds=retry_after_seconds,
    )


def draining() -> ApiError:
    """The server ends."""
    return ApiError(
        503, "the server ends; send the request to another one", "server_error", code="draining", retry_after_seconds=1
    )


def failed() -> ApiError:
    """The server has a fault."""
    return ApiError(
        500, "the server could not compute the answer; its log has the reason", "server_error", code="failed"
    )
