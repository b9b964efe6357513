"""The S3 endpoints that a run may use. Pure.

A request sends the id of the access key, the session token and a signature to the server at the endpoint. So neither
the operator nor a trainer may send a request to an address that only the author of a run chose: the owner lists the
endpoints with their scheme, and no other endpoint is used. A root without an endpoint is in the cloud's own store, at
an address that no field of a run can change."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def normal(endpoint: str) -> str:
    """An endpoint in normal form: lower case, without the default port of the scheme, without a final slash."""
    try:
        parts = urlsplit(endpoint.strip().rstrip("/").lower())
        port = parts.port
    except ValueError:
        return endpoint
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    if parts.scheme not in _PORTS or not host or parts.path or parts.query or parts.fragment or "@" in parts.netloc:
        return endpoint
    return f"{parts.scheme}://{host}" + (f":{port}" if port not in (None, _PORTS[parts.scheme]) else "")


def endpoint_refusal(endpoint: str | None, listed: Iterable[str]) -> str | None:
    """Why a run may not use an endpoint, as one sentence for the user; None if it is listed."""
    if endpoint is None or normal(endpoint) in map(normal, listed):
        return None
    return (
        f"spec.checkpoint.endpoint: this installation sends no credentials to {endpoint}; take an endpoint that it "
        "lists, or have the "
        "operator's owner add this one to objectStore.s3.endpoints in the chart"
    )
