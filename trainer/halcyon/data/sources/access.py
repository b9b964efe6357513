"""Access to object stores and web servers, and their clients.

One client library, `obstore`, supports S3, Google Cloud Storage, Azure Blob Storage and HTTP. It retries requests,
releases the GIL while it waits, and returns received data without a copy. An `Access` holds the settings but no
credentials, so it may be sent to worker processes. Each worker takes the credentials from its own environment or from
the identity of its machine. A client must not cross a fork: start workers by spawn.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from halcyon.data.sources.failures import Unreadable
from halcyon_api.spec.checkpoint import CheckpointSpec, azure_container

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

Scheme = Literal["file", "s3", "gs", "az", "https", "hf"]

_REMOTE = re.compile(r"(s3|gs|az|https|hf)://((?<=az://)[^/]+/[^/]+|(?<!az://)[^/]+)(?:/(.*))?", re.DOTALL)
_HUB_DATASET = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", re.DOTALL)
_WILD = re.compile(r"[*?\[]")

HUB_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class Address:
    """Address of a file, a directory or a glob.

    Args:
        scheme: The kind of store.
        root: The part that one client serves: a bucket, ``ACCOUNT/CONTAINER`` of Azure, ``https://HOST``,
            ``datasets/OWNER/NAME/resolve/REVISION`` of the hub; empty for local files.
        prefix: The part of the written address before `path`.
        path: The path below the root, without a slash in front; for local files the path as written.
    """

    scheme: Scheme
    root: str
    prefix: str
    path: str

    @property
    def uri(self) -> str:
        """The address as it is written."""
        return self.prefix + self.path

    @property
    def is_pattern(self) -> bool:
        """Whether the path contains wildcards of a glob."""
        return _WILD.search(self.path) is not None

    def at(self, path: str) -> Address:
        """The address of another path below the same root."""
        return Address(self.scheme, self.root, self.prefix, path)


@dataclass(frozen=True)
class SourceFile:
    """A file at the time of its listing.

    Args:
        uri: Its address: a local path as the run document spells it, or a URL.
        size_bytes: Its size as stored, compressed or not.
        version: Changes with the content: an object's ETag, a local file's modification time in ns, or a SHA-256.
    """

    uri: str
    size_bytes: int
    version: str


def parse_address(uri: str) -> Address:
    """Parse an address.

    Raises:
        Unreadable: It has no bucket or host or an unknown scheme, or is an ``hf://`` address of something other than a
            data set.
    """
    if uri.startswith("hf://"):
        match = _HUB_DATASET.fullmatch(uri)
        if match is None:
            raise Unreadable(
                f"{uri} is not an address of a data set; write hf://datasets/OWNER/NAME/PATH, or NAME@REVISION"
            )
        repository, revision, path = match.groups()
        prefix = f"hf://datasets/{repository}{f'@{revision}' if revision else ''}/"
        return Address("hf", f"datasets/{repository}/resolve/{revision or 'main'}", prefix, (path or "").strip("/"))
    match = _REMOTE.fullmatch(uri)
    if match is not None:
        scheme, root, path = match.groups()
        prefix = f"{scheme}://{root}/"
        return Address(scheme, f"https://{root}" if scheme == "https" else root, prefix, (path or "").strip("/"))  # type: ignore[arg-type]
    if "://" in uri and not uri.startswith("file://"):
        scheme = uri.partition("://")[0]
        if scheme not in get_args(Scheme):
            hint = "https://" if scheme == "http" else ", ".join(f"{known}://" for known in get_args(Scheme))
            raise Unreadable(f"{uri} begins with {scheme}://, which cannot be read; use {hint}")
        raise Unreadable(f"{uri} has no bucket or host; write the full address")
    return Address("file", "", "", os.path.expanduser(uri.removeprefix("file://")))  # noqa: PTH111 - Path would normalize the spelling


@dataclass(frozen=True)
class Access:
    """Settings for access to stores.

    Args:
        endpoint: Address of an S3-compatible store other than AWS.
        region: Region of S3 buckets; default: ``us-east-1`` if there is an endpoint, else the region of the
            environment.
        max_retries: Retries of one request, inside the client.
        retry_seconds: Time limit for the retries of one request.
        answer_seconds: Time limit from a request to the end of its answer; the limit is `retry_seconds` if that is
            longer.
        pause_seconds: Pause before the single retry of a failed read, because the file may be replaced at this moment.
    """

    endpoint: str | None = None
    region: str | None = None
    max_retries: int = 8
    retry_seconds: float = 60.0
    answer_seconds: float = 30.0
    pause_seconds: float = 2.0

    @classmethod
    def of(cls, checkpoint: CheckpointSpec) -> Access:
        """The access of a run. The endpoint and region of an S3 store are those of its checkpoints."""
        return cls(endpoint=checkpoint.endpoint, region=checkpoint.region)


def hub_endpoint(environ: Mapping[str, str]) -> str:
    """Address of the Hugging Face hub without a final slash: ``HF_ENDPOINT`` if it is set, else `HUB_ENDPOINT`."""
    return environ.get("HF_ENDPOINT", HUB_ENDPOINT).rstrip("/")


@lru_cache(maxsize=64)
def client(address: Address, access: Access) -> S3Store | GCSStore | AzureStore | HTTPStore:
    """The client for the bucket or host of an address, made once per process."""
    retry: RetryConfig = {"max_retries": access.max_retries, "retry_timeout": timedelta(seconds=access.retry_seconds)}
    options: ClientConfig = {
        "timeout": timedelta(seconds=max(access.answer_seconds, access.retry_seconds)),
        "connect_timeout": timedelta(seconds=10),
    }
    if address.scheme == "gs":
        return GCSStore(address.root, client_options=options, retry_config=retry)
    if address.scheme == "az":
        container, account = azure_container(address.root, access.endpoint)
        options["allow_http"] = (access.endpoint or "").startswith("http://")
        return AzureStore(container, **account, client_options=options, retry_config=retry)
    if address.scheme == "s3":
        config: S3Config = {}
        region = access.region or ("us-east-1" if access.endpoint else None)
        if access.endpoint:
            config["endpoint"] = access.endpoint.rstrip("/")
            options["allow_http"] = access.endpoint.startswith("http://")
        if region:
            config["region"] = region
        return S3Store(address.root, config=config, client_options=options, retry_config=retry)
    hub = hub_endpoint(os.environ)
    root = f"{hub}/{address.root}" if address.scheme == "hf" else address.root
    if (address.scheme == "hf" or root == hub) and (
        token := os.environ.get("HF_TOKEN")
    ):  # the files of a model have an https address
        options["default_headers"] = {"authorization": f"Bearer {token}"}
    options["allow_http"] = root.startswith("http://")
    return HTTPStore(root, client_options=options, retry_config=retry)


def forget_clients() -> None:
    """Drop the clients, so that the next requests of this process use new ones, which read the credentials again."""
    client.cache_clear()
