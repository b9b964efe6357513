"""Addresses of files: a path of the machine, or a scheme, a root (bucket, host or repository) and a path below it."""

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
    """Where a file lies.

    Args:
        scheme: How it is reached.
        root: What one client is for: a bucket, ``https://HOST``, ``datasets/OWNER/NAME/resolve/REVISION`` of the hub; empty for files.
        prefix: What stands before `path` in the address as it is written.
        path: The path below the root, without a slash in front; for files the path as it is.
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
        """Whether it has signs of a glob."""
        return _WILD.search(self.path) is not None

    def at(self, path: str) -> Address:
        """Another path below the same root."""
        return Address(self.scheme, self.root, self.prefix, path)


@dataclass(frozen=True)
class SourceFile:
    """A file as it was when it was listed.

    Args:
        uri: Its address: a path of the machine as the run document spells it, or a URL.
        size_bytes: Its size, compressed where it is.
        version: What changes when its content does: an object's ETag, a file's time of modification in ns, a SHA-256.
    """

    uri: str
    size_bytes: int
    version: str


def parse_address(uri: str) -> Address:
    """Take an address apart.

    Raises:
        Unreadable: It lacks a bucket, or is of an ``hf://`` kind other than a data set.
    """
    if uri.startswith("hf://"):
        match = _HUB_DATASET.fullmatch(uri)
        if match is None:
            raise Unreadable(f"{uri} is not an address of a data set; write hf://datasets/OWNER/NAME/PATH, or NAME@REVISION")
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
            raise Unreadable(f"{uri} begins with {scheme}://, which cannot be read; take {hint}")
        raise Unreadable(f"{uri} lacks a bucket or a host; write the whole address")
    return Address("file", "", "", os.path.expanduser(uri.removeprefix("file://")))  # noqa: PTH111 - a path stays as it is spelt
