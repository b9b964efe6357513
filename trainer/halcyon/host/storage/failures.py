"""Converts the error of a store to the error message for the user.

TensorStore's exceptions begin with a status code and end with source locations and, for object stores, with the
server's response, which can contain the request's credentials. Only the code and the cleaned beginning of the text are
kept.
"""

import errno
import os
import re

from halcyon.host.errors import Preempted, RootUnusable, TrainerExit

_CODE = re.compile(r"^([A-Z][A-Z_]+): ?")
_REFUSED = re.compile(
    r"\b(ExpiredToken|ExpiredTokenException|TokenRefreshRequired|InvalidToken|RequestTimeTooSkewed|RequestExpired|InvalidAccessKeyId)\b"
)
"""Error codes of S3 for credentials or a clock that the server does not accept. They come with status 400, to which
TensorStore assigns no meaning, or TensorStore retries the request and then reports another failure."""
_SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY")
_LONGEST_TEXT = 300

_FIXES = {
    "RESOURCE_EXHAUSTED": "has no space left; free some or enlarge it",
    "PERMISSION_DENIED": "refuses access; give the run's credentials the right to list, read, write and delete there",
    "UNAUTHENTICATED": "refuses access; give the run's credentials the right to list, read, write and delete there",
    "NOT_FOUND": "does not exist; {create}, or correct {field}",
    "FAILED_PRECONDITION": "cannot be used; correct {field}",
    "INVALID_ARGUMENT": "cannot be used; correct {field}, endpoint and region",
    "UNIMPLEMENTED": "cannot be used; choose another kind of store in {field}",
}
_ERRNO = {
    errno.EACCES: "PERMISSION_DENIED",
    errno.EPERM: "PERMISSION_DENIED",
    errno.EROFS: "PERMISSION_DENIED",
    errno.ENOSPC: "RESOURCE_EXHAUSTED",
    errno.EDQUOT: "RESOURCE_EXHAUSTED",
    errno.ENOTDIR: "FAILED_PRECONDITION",
    errno.EEXIST: "FAILED_PRECONDITION",
    errno.ENOENT: "NOT_FOUND",
    errno.ENOSYS: "UNIMPLEMENTED",
    errno.ENOLCK: "UNIMPLEMENTED",
    errno.ENOTSUP: "UNIMPLEMENTED",
}
_LASTING = frozenset(_FIXES) - {"RESOURCE_EXHAUSTED"}
STOPPED = "CANCELLED"
"""Status code of a request that was denied and whose retries a preemption notice ended."""
_REFUSALS = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})


class SaveFailed(TrainerExit):
    """The last checkpoint of the run could not be committed."""


class StoreFailure(Exception):
    """A request to the store failed.

    Attributes:
        code: Status code, such as ``RESOURCE_EXHAUSTED``.
        text: The store's message, without credentials.
    """

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text

    @property
    def is_refusal(self) -> bool:
        """Whether the store denied access: it did not accept the credentials or the clock of this machine."""
        return self.code in _REFUSALS

    @property
    def is_outage(self) -> bool:
        """Whether a retry may succeed: the address and the credentials are not the cause, and no disk is full."""
        return (self.code not in _FIXES and self.code != STOPPED) or (
            self.code == "RESOURCE_EXHAUSTED" and not self.is_full
        )

    @property
    def is_full(self) -> bool:
        """Whether a disk is full or its quota is used up.

        Too many open files have the same code, but are not this failure.
        """
        return self.code == "RESOURCE_EXHAUSTED" and ("No space left" in self.text or "quota" in self.text.lower())


class Abandoned(Exception):
    """The work of a background thread was stopped."""


def from_tensorstore(error: Exception) -> StoreFailure:
    """The code and text of an exception that TensorStore raised."""
    if isinstance(error, StoreFailure):
        return error
    text = str(error)
    match = _CODE.match(text)
    code = match[1] if match else "UNKNOWN"
    if "access key" in text.lower() or _REFUSED.search(
        text
    ):  # some gateways answer 404 for a key that they do not know
        code = "UNAUTHENTICATED"
    if "[EROFS]" in text or "Read-only file system" in text:
        code = "PERMISSION_DENIED"
    if "[ENOTDIR]" in text or "Not a directory" in text:
        code = "FAILED_PRECONDITION"
    return StoreFailure(code, clean(text[match.end() :] if match else text))


def from_os(error: OSError) -> StoreFailure:
    """The code and text of an error of the operating system."""
    return StoreFailure(
        _ERRNO.get(error.errno or 0, "UNKNOWN"),
        f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror),
    )


def clean(text: str) -> str:
    """The text as one line, without source locations, response bodies and credentials."""
    text = re.split(
        r"\s*(?:\[(?:source locations|tensorstore_spec|http_response_body|body)=|with "
        r"body\b|<\?xml\b|<[Ee]rror>|<html\b)",
        text,
    )[0]
    for variable in _SECRET_VARIABLES:
        value = os.environ.get(variable)
        if value:
            text = text.replace(value, f"${variable}")
    text = re.sub(
        r"(?i)(X-Amz-(?:Credential|Signature|Security-Token)|Credential|Signature|sig)=[^&\s,]+", r"\1=…", text
    )
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"


def explain(
    failure: StoreFailure, root: str, *, what: str = "checkpoint root", field: str = "spec.checkpoint.root"
) -> str:
    """The error message for a failed request: the root, the problem, the fix.

    Args:
        failure: The failure.
        root: The root's address.
        what: What it is.
        field: Where the user gave the address.
    """
    create = "create the folder" if root.startswith("file://") else "create the bucket"
    unknown = "could not be reached; look at the store and the network"
    fix = _FIXES.get(failure.code, unknown).format(field=field, create=create)
    return f"{what} {root} {fix} ({failure})"


def as_exit(
    failure: StoreFailure, root: str, *, what: str = "checkpoint root", field: str = "spec.checkpoint.root"
) -> TrainerExit:
    """The error with which a training ends that cannot use its root.

    A root that does not answer is `RootUnusable` too: the operator retries after a growing delay, and this does not
    count as a failure of the run.
    """
    if failure.code == STOPPED:
        return Preempted(
            f"a notice of preemption came while the {what} {root} refused access; there was nothing to save"
        )
    return (RootUnusable if failure.code in _LASTING or failure.is_outage else TrainerExit)(
        explain(failure, root, what=what, field=field)
    )
