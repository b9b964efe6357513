"""A dataclass as a file of a root: JSON in a Zstandard frame with a checksum."""

from dataclasses import asdict
from typing import Any, TypeVar

import orjson
import zstandard
from pydantic import TypeAdapter

FORMAT = 1
MAX_BYTES = 64 << 20
"""Largest size of a file in memory: a damaged size cannot exhaust the memory."""
Record = TypeVar("Record")


class DamagedRecord(ValueError):
    """A file does not hold what was written. The message names its key."""


def written(record: Any) -> bytes:
    """The file of a dataclass."""
    data = orjson.dumps({"format": FORMAT, **asdict(record)})
    return zstandard.ZstdCompressor(level=3, write_checksum=True).compress(data)


def parsed(key: str, data: bytes, form: TypeAdapter[Record]) -> Record:
    """What `written` has written.

    Args:
        key: The key of the file.
        data: Its bytes.
        form: What it holds.

    Raises:
        DamagedRecord: The file is damaged.
    """
    try:
        if zstandard.get_frame_parameters(data).content_size > MAX_BYTES:
            raise DamagedRecord(f"{key} is damaged (its size)")
        text = zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        if orjson.loads(text)["format"] != FORMAT:
            raise DamagedRecord(f"{key} has a format that this version cannot read; use a newer version of Halcyon")
        return form.validate_json(text)
    except DamagedRecord:
        raise
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise DamagedRecord(f"{key} is damaged ({type(error).__name__})") from None
