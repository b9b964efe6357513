"""Rows of the files that tasks are published in: JSON lines (also gzip), Parquet, CSV, and lists of words.

A bad row is named by its file and line. Lines and files have limits, because a file may come from anywhere.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from halcyon.host.errors import BadConfiguration, first_line
from halcyon.inference.speech import file_of
from halcyon_api.plain_files import require_file

MOST_LINE_BYTES = 16 << 20
"""Bytes of the longest line."""
MOST_ROWS = 2_000_000
"""Rows of the largest task."""


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Attributes:
        values: Its fields.
        place: The file and the line, or the number of the row in a Parquet file, from 1.
        file: The file.
    """

    values: Mapping[str, Any]
    place: str
    file: Path

    def bad(self, what: str) -> NoReturn:
        """Reject the row.

        Raises:
            BadConfiguration: Always.
        """
        raise BadConfiguration(f"{self.place}: {what}")

    def get(self, name: str) -> Any:
        """A field that must be there."""
        if name not in self.values:
            there = ", ".join(list(self.values)[:8]) or "nothing"
            self.bad(
                f"the row has no field {name}; it has {there}. Give a file in the format that the task is published in"
            )
        return self.values[name]

    def text(self, name: str) -> str:
        """A field that must be a text that is not empty."""
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            self.bad(f"the field {name} is no text, or it is empty")
        return value

    def texts(self, name: str, value: Any = None) -> tuple[str, ...]:
        """A field that must be a list of texts; `value` is taken instead if it is given."""
        texts = self.get(name) if value is None else value
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            self.bad(f"the field {name} is no list of texts, or it is empty")
        return tuple(texts)

    def integer(self, name: str, most: int) -> int:
        """A field that must be an integer from 0 to `most`."""
        value = self.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            self.bad(f"the field {name} is no integer from 0 to {most}")
        return value

    def named_file(self, name: str, value: Any) -> bytes:
        """The bytes of a file that a field names; see `halcyon.inference.speech.file_of`."""
        try:
            return file_of(value, self.file.parent)
        except (OSError, ValueError):
            self.bad(f"the field {name} is neither bytes nor a file below the folder of its row's file")

    def images(self) -> tuple[bytes, ...]:
        """The files of the field ``images`` or ``image``."""
        given = self.values.get("images", self.values.get("image"))
        several = given if isinstance(given, list) else [given]
        return tuple(self.named_file("image", one) for one in several if one is not None)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, or of all files of a folder in the order of their names.

    Raises:
        BadConfiguration: A file is of no known kind, or a row cannot be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if _kind(file) is not None and not file.name.startswith("."))
        if not files:
            raise BadConfiguration(f"{path}: the folder has no file that ends in {', '.join(_KINDS)}")
    else:
        files = [path]
    count = 0
    for file in files:
        kind = _kind(file)
        if kind is None:
            raise BadConfiguration(
                f"{file}: a task is a file that ends in {', '.join(_KINDS)}, or a folder of such files"
            )
        try:
            for row in kind(file):
                count += 1
                if count > MOST_ROWS:
                    raise BadConfiguration(f"{path}: there are more than {MOST_ROWS:,} rows; give a smaller file")
                yield row
        except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
            raise BadConfiguration(f"{file}: it cannot be read: {error}") from None


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        place = f"{path.name} line {number}"
        try:
            value = json.loads(line)
            if "\\u" in line:
                json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise BadConfiguration(f"{place}: the line has half a surrogate pair; fix the text") from None
        except (ValueError, RecursionError) as error:
            raise BadConfiguration(f"{place}: the line is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise BadConfiguration(f"{place}: the line is no JSON object")
        yield Row(value, place, path)


def _csv(path: Path) -> Iterator[Row]:
    """Without a header, as MMLU is published: the fields are ``0``, ``1``, ..."""
    reader = csv.reader(io.StringIO("".join(line for _, line in _lines(path)), newline=""))
    for fields in reader:
        if fields:
            yield Row(
                {str(place): field for place, field in enumerate(fields)}, f"{path.name} line {reader.line_num}", path
            )


def _words(path: Path) -> Iterator[Row]:
    for number, line in _lines(path):
        if line.strip():
            yield Row({"word": line.strip()}, f"{path.name} line {number}", path)


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        require_file(path)
        with pq.ParquetFile(path) as file:
            values = (value for batch in file.iter_batches(1024) for value in batch.to_pylist())
            for number, value in enumerate(values, 1):
                yield Row(value, f"{path.name} row {number}", path)
    except pa.ArrowException as error:
        raise BadConfiguration(f"{path.name}: it is no Parquet file: {first_line(error)}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    require_file(path)
    with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MOST_LINE_BYTES + 1), b""), 1):
            if len(line) > MOST_LINE_BYTES:
                raise BadConfiguration(f"{path.name} line {number}: the line is longer than {MOST_LINE_BYTES:,} bytes")
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")


_KINDS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".parquet": _parquet,
    ".csv": _csv,
    ".txt": _words,
}


def _kind(path: Path) -> Callable[[Path], Iterator[Row]] | None:
    return next((kind for ending, kind in _KINDS.items() if path.name.endswith(ending)), None)
