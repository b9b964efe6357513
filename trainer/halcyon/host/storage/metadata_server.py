"""Waits for the metadata server of Google Cloud in a fresh pod.

On GKE the server that provides the credentials of a pod may need some seconds until it knows the pod. TensorStore asks
it only once in each process: if it does not answer then, all later requests are sent without credentials, even if the
store is opened again. So in a pod with a `gs://` root this module asks the server first, and the root is opened after
it answers.
"""

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from halcyon.host.storage.retry_budget import RetryBudget, WaitStopped

_PATH = "/computeMetadata/v1/instance/service-accounts/default/email"
_OWN_CREDENTIALS = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_AUTH_TOKEN_FOR_TESTING")
_WELL_KNOWN_FILE = ".config/gcloud/application_default_credentials.json"
_TIMEOUT_SECONDS = 5.0


class NoCredentialsYet(Exception):
    """The metadata server does not answer, or does not know the pod."""


def server_address(root: str, environ: Mapping[str, str]) -> str | None:
    """The URL to request before a root is opened; None if its credentials do not come from the metadata server.

    Args:
        root: Address of the root.
        environ: The process's environment.
    """
    if not root.startswith("gs://") or any(environ.get(name) for name in _OWN_CREDENTIALS):
        return None
    if Path(environ.get("HOME") or "/", _WELL_KNOWN_FILE).exists():
        return None
    return f"http://{environ.get('GCE_METADATA_ROOT') or 'metadata.google.internal'}{_PATH}"


def wait_for_server(
    root: str, environ: Mapping[str, str], retry_budget: RetryBudget, answers: Callable[[str], bool] | None = None
) -> None:
    """Wait until the metadata server answers, if a root needs it. If it never answers, this returns, and the requests
    to the root fail.

    Args:
        root: Address of the root.
        environ: The process's environment.
        retry_budget: Limits the retries.
        answers: Whether the server answers at a URL. Default: an HTTP request.
    """
    address = server_address(root, environ)
    if address is None:
        return
    ask, began, tries, here = answers or _answers, None, 0, False
    try:
        while not (here := ask(address)):
            tries += 1
            began = retry_budget.wait(
                root, NoCredentialsYet("the metadata server gives no credentials yet"), tries, began
            )
    except (NoCredentialsYet, WaitStopped):
        return
    finally:
        if began is not None:
            retry_budget.end_wait(root, began, answers=here)


def _answers(address: str) -> bool:
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})  # noqa: S310 - always http
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
