"""Waiting for the metadata server of Google Cloud in a fresh pod.

On GKE the server that hands out the credentials of a pod may need some seconds until it knows the pod. TensorStore asks it once for each
process: if there is no answer then, every later request goes out without credentials, whatever is opened anew. So a pod with a `gs://`
root asks the server itself first, and opens the root when it answers.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from halcyon.storage.patience import Patience, WaitStopped

_PATH = "/computeMetadata/v1/instance/service-accounts/default/email"
_OWN_CREDENTIALS = ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_AUTH_TOKEN_FOR_TESTING")
_WELL_KNOWN_FILE = ".config/gcloud/application_default_credentials.json"
_TIMEOUT_SECONDS = 5.0


class NoCredentialsYet(Exception):
    """The metadata server does not answer, or does not know the pod."""


def server_address(root: str, environ: Mapping[str, str]) -> str | None:
    """What to ask before a root is opened; None where its credentials do not come from the metadata server.

    Args:
        root: Address of the root.
        environ: The process's environment.
    """
    if not root.startswith("gs://") or any(environ.get(name) for name in _OWN_CREDENTIALS):
        return None
    if Path(environ.get("HOME") or "/", _WELL_KNOWN_FILE).exists():
        return None
    return f"http://{environ.get('GCE_METADATA_ROOT') or 'metadata.google.internal'}{_PATH}"


def wait_for_server(root: str, environ: Mapping[str, str], patience: Patience, answers: Callable[[str], bool] | None = None) -> None:
    """Wait until the metadata server answers, where a root needs it. If it never does, the root itself will say what is wrong.

    Args:
        root: Address of the root.
        environ: The process's environment.
        patience: How long to ask.
        answers: Asks an address. Default: over HTTP.
    """
    address = server_address(root, environ)
    if address is None:
        return
    ask, began, tries, here = answers or _answers, None, 0, False
    try:
        while not (here := ask(address)):
            tries += 1
            began = patience.wait(root, NoCredentialsYet("the metadata server gives no credentials yet"), tries, began)
    except (NoCredentialsYet, WaitStopped):
        return
    finally:
        if began is not None:
            patience.ended(root, began, answers=here)


def _answers(address: str) -> bool:
    request = urllib.request.Request(address, headers={"Metadata-Flavor": "Google"})  # noqa: S310 - always http
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
