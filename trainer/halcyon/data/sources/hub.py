"""The Hugging Face hub: the files of data sets (``hf://datasets/…``)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from halcyon.data.sources.access import hub_endpoint
from halcyon.data.sources.address import Address, SourceFile
from halcyon.data.sources.failures import Unreadable, reason, unreadable

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile, RepoFolder


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
            f"{address.uri} needs the package huggingface_hub; install it, or copy the files to a store"
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
    except (HfHubHTTPError, OSError, ValueError) as error:
        what = f"{address.uri} cannot be listed: {reason(error)}; check the name, the revision and HF_TOKEN"
        raise unreadable(what, error) from None


def _files(address: Address, entries: Iterable[RepoFile | RepoFolder]) -> Iterator[SourceFile]:
    from huggingface_hub.hf_api import RepoFile

    for entry in entries:
        if isinstance(entry, RepoFile):
            yield SourceFile(address.at(entry.path).uri, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
