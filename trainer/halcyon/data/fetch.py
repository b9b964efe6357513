"""Fetches whole small files (tokenizers) from any location that a source may have."""

from __future__ import annotations

import errno
import os
import re

from halcyon.data.sources import Access, SourceFile
from halcyon.data.sources.access import hub_endpoint
from halcyon.data.sources.address import parse_address
from halcyon.data.sources.failures import Unreachable, Unreadable
from halcyon.data.sources.files import read_chunks, stat_file
from halcyon.data.sources.remote import look_up
from halcyon.errors import DataUnreachable

_HUB_MODEL = re.compile(r"hf://(?!datasets/)([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)")


def fetch_file(uri: str, access: Access) -> bytes:
    """The content of a file.

    Raises:
        OSError: The file does not exist or cannot be read.
        DataUnreachable: Its store does not answer, or denies access.
    """
    model = _HUB_MODEL.fullmatch(uri)
    if model is not None:
        uri = f"{hub_endpoint(os.environ)}/{model[1]}/resolve/{model[2] or 'main'}/{model[3]}"
    try:
        address = parse_address(uri)
        found: SourceFile | None = stat_file(address.path) if address.scheme == "file" else look_up(address, access)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri)
        return b"".join(bytes(chunk) for chunk in read_chunks(found, access))
    except Unreachable as failure:
        raise DataUnreachable(str(failure)) from failure
    except Unreadable as failure:
        raise OSError(str(failure)) from failure
