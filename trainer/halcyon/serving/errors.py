"""Errors of a request, in the form of OpenAI's interface."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request is not answered.

    Args:
        status: The HTTP status.
        message: One sentence for the user.
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
        super().__init__(message)
        self.status, self.kind, self.param, self.code = status, kind, param, code
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


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request must be changed."""
    return ApiError(400, message, param=param, code=code)


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
    return ApiError(503, "the server ends; send the request to another one", "server_error", code="draining", retry_after_seconds=1)


def failed() -> ApiError:
    """The server has a fault."""
    return ApiError(500, "the server could not compute the answer; its log has the reason", "server_error", code="failed")
