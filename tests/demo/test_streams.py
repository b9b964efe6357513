"""A stream reads a command's lines, restarts it while it should, and ends when it is closed."""

import json
import threading
from collections.abc import Iterator
from itertools import count

from halcyon_demo.streams import Stream, documents
from tests.suite.limits import limit


def test_objects_are_split_at_their_ends() -> None:
    objects = [{"a": {"b": [1, 2]}}, {"text": "}\n{"}, {}]
    text = "\n".join(json.dumps(found, indent=4) if found else "{\n}" for found in objects) + "\n"
    assert list(documents(text.splitlines(keepends=True))) == objects
    assert list(documents(['{"half":\n'])) == []


def test_all_lines_of_a_command_that_ends() -> None:
    seen: list[str] = []
    stream = Stream(["printf", "one\\ntwo\\n"], seen.extend, lambda: False)
    stream.join()
    assert seen == ["one\n", "two\n"]


def test_a_stream_restarts_its_command_while_it_should() -> None:
    runs = count(1)
    seen: list[str] = []
    stream = Stream(["printf", "line\\n"], seen.extend, lambda: next(runs) < 3)
    stream.join()
    assert seen == ["line\n"] * 3


def test_closing_ends_a_command_that_still_runs() -> None:
    first = threading.Event()

    def consume(lines: Iterator[str]) -> None:
        for _ in lines:
            first.set()

    stream = Stream(["sh", "-c", "echo up; exec sleep 600"], consume, lambda: True)
    assert first.wait(limit(30))
    stream.close()
    assert not stream._thread.is_alive()
