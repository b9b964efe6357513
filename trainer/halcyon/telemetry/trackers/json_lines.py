"""JSON lines: a file that any program can follow.

The first line has the run and its document, each other line the numbers of a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import orjson

from halcyon.telemetry.trackers.tracker import TrackedRun


class JsonLines:
    """A file with one JSON object for each row.

    A resumed run continues the file: lines of steps after the resumed one are cut off, because they are done again. So
    is a half line of a process that was killed while it wrote.

    Args:
        path: The file. Its folder is made.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._file: BinaryIO | None = None

    def begin(self, run: TrackedRun) -> None:
        """Open the file at the resumed step.

        Raises:
            ValueError: The file belongs to another run.
            OSError: It cannot be written.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+b")
        try:
            end = self._kept(file, run)
            file.truncate(end)
        except BaseException:
            file.close()
            raise
        self._file = file
        if end == 0:
            self._write({"run": run.name, "id": run.identity, "document": run.document})
            self._file.flush()

    def _kept(self, file: BinaryIO, run: TrackedRun) -> int:
        """The size of the part of the file that stays."""
        file.seek(0)
        end = 0
        for number, line in enumerate(file):
            try:
                row = orjson.loads(line) if line.endswith(b"\n") else None
            except orjson.JSONDecodeError:
                row = None
            if number == 0 and (not isinstance(row, dict) or row.get("id") != run.identity):
                raise ValueError(f"{self._path} holds something else than this run; choose another path")
            if row is None or row.get("step", 0) > run.resumed_step:
                break
            end += len(line)
        return end

    def numbers(self, step: int, time: float, values: Mapping[str, float]) -> None:
        """Add a line."""
        self._write({"step": step, "time": round(time, 3), **values})

    def flush(self) -> None:
        """Hand the lines to the operating system."""
        if self._file is not None:
            self._file.flush()

    def end(self, cause: str, summary: Mapping[str, float]) -> None:
        """Close the file. Its last line says how the process ended; the next process may append after it."""
        if self._file is not None:
            self._write({"event": cause, **summary})
            self._file.close()

    def _write(self, row: Mapping[str, object]) -> None:
        if self._file is not None:
            self._file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
