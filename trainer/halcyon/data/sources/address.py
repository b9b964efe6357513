"""Addresses of files: a local path, or a scheme, a root (bucket, host or repository) and a path below it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal, get_args

from halcyon.data.sources.failures import Unreadable

Scheme = Literal["file", "s3", "gs", "https", "hf"]

_REMOTE = re.compile(r"(s3|gs|https|hf)://([^/]+)(?:/(.*))?", re.DOTALL)
_HUB_DATASET = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?", re.DOTALL)
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Address:
    """Address of a file, a directory or a glob.

    Args:
        scheme: The kind of store.
        root: The part that one client serves: a bucket, ``https://HOST``, ``datasets/OWNER/NAME/resolve/REVISION`` of
            the hub; empty for local files.
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
