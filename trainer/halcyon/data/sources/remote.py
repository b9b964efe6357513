"""Looks up, lists and reads objects of S3, Google Cloud Storage, web servers and the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import BaseError, NotSupportedError

from halcyon.data.sources.access import Access, Address, SourceFile, client, hub_endpoint
from halcyon.data.sources.failures import Replaced, Unreadable, is_remote, reason, unreadable

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile, RepoFolder
    from obstore import ObjectMeta

_CHUNK_BYTES = 2**20


def look_up(address: Address, access: Access) -> SourceFile | None:
    """The object at an address; None: it does not exist.

    Raises:
        Unreadable: The address is wrong; `Unreachable`: the store does not answer, or denies access.
    """
    if address.scheme == "hf":
        return look_up_file(address)
    try:
        return _as_listed(address, obstore.head(client(address, access), address.path))
    except FileNotFoundError:
        return None
    except (BaseError, OSError, ValueError) as error:
        raise _refused(address, "looked up", error) from None


def list_prefix(folder: Address, access: Access) -> Iterator[SourceFile]:
    """All objects below a folder, or below the root, in no defined order.

    Raises:
        Unreadable: The address is wrong; `Unreachable`: the store does not answer, or denies access.
    """
    if folder.scheme == "hf":
        yield from list_repository(folder)
        return
    try:
        for batch in obstore.list(client(folder, access), prefix=folder.path or None):
            # Some tools write an empty folder as an empty object whose key ends with a slash.
            yield from (
                _as_listed(folder.at(meta["path"]), meta)
                for meta in batch
                if meta["size"] or not meta["path"].endswith("/")
            )
    except (BaseError, OSError, ValueError) as error:
        raise _refused(folder, "listed", error) from None


def _refused(address: Address, done: str, error: Exception) -> Unreadable:
    return unreadable(f"{address.uri} cannot be {done}: {reason(error)}; check the address and the credentials", error)


def read_range(file: SourceFile, address: Address, start: int, end: int, access: Access) -> memoryview:
    """The bytes [start, end) of an object, without a copy.

    Raises:
        Unreadable: The object differs from the listing.
        BaseError, OSError: The request failed.
    """
    result = obstore.get(client(address, access), address.path, options={"range": (start, end)})
    _check(file, address, result.meta)
    return memoryview(result.bytes())


def read_stream(file: SourceFile, address: Address, access: Access) -> Iterator[memoryview]:
    """The whole object in one request, for web servers that do not support ranges.

    Raises:
        Unreadable: The object differs from the listing, or the connection broke.
    """
    read = 0
    try:
        result = obstore.get(client(address, access), address.path)
        _check(file, address, result.meta)
        for chunk in result.stream(min_chunk_size=_CHUNK_BYTES):
            read += len(chunk)
            yield memoryview(chunk)
    except (BaseError, OSError) as error:
        what = f"{file.uri} broke off after {read} of {file.size_bytes} bytes: {reason(error)}"
        raise unreadable(
            f"{what}; its server cannot serve parts of files, so copy it to a store or a volume", error
        ) from None


def serves_ranges(file: SourceFile, address: Address, access: Access) -> bool:
    """Whether ranges of an object can be requested.

    Stores always support them; a web server is tested with a request.
    """
    if address.scheme != "https" or file.size_bytes == 0:
        return True
    try:
        obstore.get(client(address, access), address.path, options={"range": (0, 1)}).bytes()
    except NotSupportedError:
        return False
    except (BaseError, OSError):
        return True  # the read itself retries and reports the error
    return True


def _as_listed(address: Address, meta: ObjectMeta) -> SourceFile:
    return SourceFile(address.uri, meta["size"], meta["e_tag"] or meta["last_modified"].isoformat())


def _check(file: SourceFile, address: Address, meta: ObjectMeta) -> None:
    now = _as_listed(address, meta)
    same = (
        now.size_bytes == file.size_bytes if address.scheme == "hf" else now == file
    )  # versions of the hub are git hashes, not ETags
    if not same:
        raise Replaced(
            f"{file.uri} changed after it was listed; leave the files alone while they are read, and start again"
        )


def list_repository(folder: Address) -> Iterator[SourceFile]:
    """All files below a folder of a data set's repository. Their version is the hub's hash of the content.

    Raises:
        Unreadable: The data set does not exist, the token has no access to it, or `huggingface_hub` is not installed;
            `Unreachable`: the hub does not answer.
    """
    with _asking(folder) as (api, repository, revision):
        entries = api.list_repo_tree(
            repository, folder.path or None, recursive=True, revision=revision, repo_type="dataset"
        )
        yield from _files(folder, entries)


def look_up_file(address: Address) -> SourceFile | None:
    """One file of a data set's repository; None: it does not exist.

    Raises:
        Unreadable: As `list_repository`.
    """
    with _asking(address) as (api, repository, revision):
        return next(
            _files(address, api.get_paths_info(repository, address.path, revision=revision, repo_type="dataset")), None
        )


@contextmanager
def _asking(address: Address) -> Iterator[tuple[HfApi, str, str]]:
    """The hub's client, and the repository and revision of an address."""
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
    except ImportError:
        raise Unreadable(
            f"{address.uri} needs the package huggingface_hub: `pip install huggingface_hub`; or copy the files to a "
            "store"
        ) from None
    _, owner, name, _, revision = address.root.split("/", 4)
    try:
        yield (
            HfApi(endpoint=hub_endpoint(os.environ), token=os.environ.get("HF_TOKEN", False)),
            f"{owner}/{name}",
            revision,
        )
    except EntryNotFoundError:
        return  # a folder that does not exist has no files
    except Exception as error:
        if not isinstance(error, HfHubHTTPError | OSError | ValueError) and not is_remote(error):
            raise
        what = f"{address.uri} cannot be listed: {reason(error)}; check the name, the revision and HF_TOKEN"
        raise unreadable(what, error) from None


def _files(address: Address, entries: Iterable[RepoFile | RepoFolder]) -> Iterator[SourceFile]:
    from huggingface_hub.hf_api import RepoFile

    for entry in entries:
        if isinstance(entry, RepoFile):
            yield SourceFile(address.at(entry.path).uri, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
