"""Log lines are exact JSON, and lines of several threads never mix."""

from __future__ import annotations

import io
import json
import math
import struct
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halcyon.telemetry import Clock, JsonLog, RunIdentity, open_log
from halcyon.telemetry.log_line import encode_line
from tests.trainer.telemetry.fakes import IDENTITY, NOON

CLOCK = Clock(wall=lambda: NOON + 0.25)


def test_a_line_has_the_identity_of_the_process_and_the_time() -> None:
    stream = io.StringIO()
    JsonLog(stream, IDENTITY, CLOCK).event("checkpointFailed", step=7, reason="disk full", not_known=None, size_bytes=3)
    assert stream.getvalue() == (
        '{"event":"checkpointFailed","time":"2026-03-01T12:00:00.250Z","run":"demo","attempt":3,"restart":1,"process":0,'
        '"step":7,"reason":"disk full","sizeBytes":3}\n'
    )


@given(st.integers(0, 2**32 - 1))
def test_every_float32_comes_back_bit_for_bit(bits: int) -> None:
    value = np.frombuffer(struct.pack("<I", bits), np.float32)[0]
    for written in (value, float(value)):
        read = json.loads(encode_line({"loss": written}))["loss"]
        if math.isnan(value):
            assert read == "NaN"
        else:
            assert np.float32(float(read)).tobytes() == value.tobytes()


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float64_comes_back_bit_for_bit(value: float) -> None:
    read = json.loads(encode_line({"loss": value}))["loss"]
    assert struct.pack("<d", read) == struct.pack("<d", value)


def test_non_finite_numbers_are_written_as_strings() -> None:
    line = encode_line({"a": math.nan, "b": math.inf, "c": -math.inf, "d": [1.5, math.nan], "e": {"f_g": math.inf}})
    assert json.loads(line, parse_constant=pytest.fail) == {
        "a": "NaN",
        "b": "Infinity",
        "c": "-Infinity",
        "d": [1.5, "NaN"],
        "e": {"fG": "Infinity"},
    }


def test_values_of_all_kinds() -> None:
    text = "Größe\n\udc80"
    line = encode_line(
        {"array": np.int64(7), "flag": True, "text": text, "none": None, "other": ValueError("x"), "list": (1, None)}
    )
    assert line.isascii()
    assert line.count("\n") == 1
    assert json.loads(line) == {"array": 7, "flag": True, "text": text, "other": "x", "list": [1, None]}


def test_lines_of_many_threads_stay_whole() -> None:
    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            for half in (text[: len(text) // 2], text[len(text) // 2 :]):
                super().write(half)
                time.sleep(0)  # lets another thread in
            return len(text)

    stream = Slow()
    log = JsonLog(stream, IDENTITY)

    def write(thread: int) -> None:
        for number in range(50):
            log.event("step", thread=thread, number=number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len(lines) == 400
    assert {(line["thread"], line["number"]) for line in lines} == {
        (thread, number) for thread in range(8) for number in range(50)
    }


def test_every_line_is_flushed() -> None:
    flushed: list[int] = []

    class Stream(io.StringIO):
        def flush(self) -> None:
            flushed.append(self.getvalue().count("\n"))

    log = JsonLog(Stream(), IDENTITY)
    log.event("start")
    log.event("done")
    assert flushed == [1, 2]


@pytest.mark.parametrize(
    ("terminal", "json_lines", "kind"),
    [(False, None, "JsonLog"), (True, None, "ProgressLine"), (True, True, "JsonLog"), (False, False, "ProgressLine")],
)
def test_the_kind_of_log_depends_on_the_stream(terminal: bool, json_lines: bool | None, kind: str) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    log = open_log(Stream(), RunIdentity("demo"), steps=10, json_lines=json_lines)
    log.close()
    assert type(log).__name__ == kind
