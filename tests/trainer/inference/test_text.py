"""Text is shown in whole characters, and ends before a stop string wherever the tokens are cut."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from halcyon.inference.text import StopStrings, TextStream
from halcyon.tokenizer import BYTE, load

_BYTES = load(BYTE)


def _shown(data: bytes) -> list[str]:
    """What each byte shows, and the end."""
    stream = TextStream(_BYTES, _BYTES.encode("before").tolist())
    return [*(stream.push(byte) for byte in data), stream.finish()]


@pytest.mark.parametrize("text", ["plain", "Ünï", "ab€c", "日本語 text", "🙂🙂", ""])
def test_a_character_is_shown_when_it_is_complete(text: str) -> None:
    parts = _shown(text.encode())
    assert "".join(parts) == text
    assert parts[-1] == ""
    assert all("\ufffd" not in part and len(part) <= 1 for part in parts)


def test_bytes_that_are_no_text_do_not_hold_back_what_follows() -> None:
    noise = np.random.default_rng(0)
    for length in range(40):
        data = bytes(noise.integers(100, 256, length, np.uint8)) + "€ end".encode()
        parts = _shown(data)
        assert "".join(parts) == data.decode(errors="replace")
        assert parts[-1] == ""
    endless = _shown(b"\xff" * 50)
    assert sum(map(len, endless[:-1])) >= 46


def test_an_incomplete_end_becomes_one_replacement() -> None:
    assert "".join(_shown("a€".encode()[:-1])) == "a\ufffd"


def test_a_stop_string_ends_the_text_wherever_it_is_cut() -> None:
    text, stop = "one two\n\nthree", "\n\nth"
    for cuts in ((), (8,), (9,), (8, 9, 10), tuple(range(1, len(text)))):
        stops, shown, ended = StopStrings((stop, "never")), "", False
        for first, last in pairwise((0, *cuts, len(text))):
            part, ended = stops.push(text[first:last])
            shown += part
            if ended:
                break
        assert (shown, ended) == ("one two", True)


def test_the_beginning_of_a_stop_string_is_shown_if_the_rest_does_not_come() -> None:
    stops = StopStrings(("END",))
    assert stops.push("the E") == ("the ", False)
    assert stops.push("N") == ("", False)
    assert stops.push("T") == ("ENT", False)
    assert stops.push(" E") == (" ", False)
    assert stops.finish() == "E"


def test_the_first_of_several_stop_strings_ends_the_text() -> None:
    assert StopStrings(("c", "bc")).push("abcd") == ("a", True)
