"""A connection to an API server, for tests that would otherwise start a kubectl process for each request."""

from __future__ import annotations

import base64
import ssl
import tempfile

import httpx
import yaml

from tests.suite.limits import limit


def connect(kubeconfig: str, *, timeout_seconds: float) -> httpx.Client:
    """An open client that uses the client certificate of a kubeconfig.

    Args:
        kubeconfig: The text of a kubeconfig with embedded certificates, as the development cluster writes it.
        timeout_seconds: Limit for an answer on the reference machine.
    """
    document = yaml.safe_load(kubeconfig)
    cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
    trusted = ssl.create_default_context(cadata=_decoded(cluster["certificate-authority-data"]))
    with tempfile.NamedTemporaryFile("w", suffix=".pem") as both:
        both.write(_decoded(user["client-certificate-data"]) + "\n" + _decoded(user["client-key-data"]))
        both.flush()
        trusted.load_cert_chain(both.name)
    return httpx.Client(base_url=cluster["server"], verify=trusted, timeout=limit(timeout_seconds), trust_env=False)


def _decoded(text: str) -> str:
    return base64.b64decode(text).decode()
