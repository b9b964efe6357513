"""How object stores and web servers are reached, and the clients for it.

One client library, `obstore`, speaks S3, Google Cloud Storage and HTTP: it retries by itself, gives the GIL back while it waits, and hands
out what it received without a copy. An `Access` says where and how; it holds no credentials, so it may travel to worker processes, each
of which takes the credentials from its own environment or from the identity of its machine. A client must not cross a fork: start workers
by spawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from obstore.store import GCSStore, HTTPStore, S3Store

from halcyon.data.sources.address import Address
from halcyon_api.spec.checkpoint import CheckpointSpec

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

HUB_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class Access:
    """How stores are reached.

    Args:
        endpoint: Address of an S3-compatible store other than AWS.
        region: Region of S3 buckets; default: ``us-east-1`` where there is an endpoint, else the environment's.
        max_retries: Retries of one request, inside the client.
        retry_seconds: The longest time that the retries of one request may take.
        answer_seconds: The longest time from a request to the end of its answer, where `retry_seconds` is not longer.
        pause_seconds: Pause before the one more round that a file gets which could not be read: it may be replaced at this moment.
        parallel_reads: Requests of one file that are under way at a time.
    """

    endpoint: str | None = None
    region: str | None = None
    max_retries: int = 8
    retry_seconds: float = 60.0
    answer_seconds: float = 30.0
    pause_seconds: float = 2.0
    parallel_reads: int = 8

    @classmethod
    def of(cls, checkpoint: CheckpointSpec) -> Access:
        """The access of a run: an S3 store's endpoint and region are those of its checkpoints."""
        return cls(endpoint=checkpoint.endpoint, region=checkpoint.region)


def hub_endpoint(environ: Mapping[str, str]) -> str:
    """Address of the Hugging Face hub: ``HF_ENDPOINT``, where it is set, without a slash at the end."""
    return environ.get("HF_ENDPOINT", HUB_ENDPOINT).rstrip("/")


@lru_cache(maxsize=64)
def client(address: Address, access: Access) -> S3Store | GCSStore | HTTPStore:
    """The client for an address's bucket or host, made once in each process."""
    retry: RetryConfig = {"max_retries": access.max_retries, "retry_timeout": timedelta(seconds=access.retry_seconds)}
    options: ClientConfig = {
        "timeout": timedelta(seconds=max(access.answer_seconds, access.retry_seconds)),
        "connect_timeout": timedelta(seconds=10),
    }
    if address.scheme == "gs":
        return GCSStore(address.root, client_options=options, retry_config=retry)
    if address.scheme == "s3":
        config: S3Config = {}
        region = access.region or ("us-east-1" if access.endpoint else None)
        if access.endpoint:
            config["endpoint"] = access.endpoint.rstrip("/")
            options["allow_http"] = access.endpoint.startswith("http://")
        if region:
            config["region"] = region
        return S3Store(address.root, config=config, client_options=options, retry_config=retry)
    root = address.root
    if address.scheme == "hf":
        root = f"{hub_endpoint(os.environ)}/{address.root}"
        if token := os.environ.get("HF_TOKEN"):
            options["default_headers"] = {"authorization": f"Bearer {token}"}
    options["allow_http"] = root.startswith("http://")
    return HTTPStore(root, client_options=options, retry_config=retry)


def forget_clients() -> None:
    """Have the next requests of this process go out by new clients, with credentials that are read anew."""
    client.cache_clear()
