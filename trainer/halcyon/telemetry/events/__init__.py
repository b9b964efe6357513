"""All events of the log: their fields, their sentences, and what they change in the state of a process.

``events.yaml`` has the table. The reference page is generated from it, and tests compare the log with it.

All lines also have the fields that the reference begins with. Events with ``every_process`` are written by each
process, the others by process 0 alone.
"""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from halcyon.telemetry.events.effects import CHANGES, WORDS
from halcyon.telemetry.events.row import Event
from halcyon_api.yaml_text import read_document


def _events() -> tuple[Event, ...]:
    rows = read_document(Path(__file__).with_name("events.yaml").read_text(encoding="utf-8"))
    return tuple(
        Event(name, **row | ({"words": WORDS[name]} if name in WORDS else {}), change=CHANGES.get(name))
        for name, row in rows.items()
    )


EVENTS = _events()
BY_NAME = {event.name: event for event in EVENTS}


def sentence(name: str, fields: Mapping[str, Any]) -> str:
    """One event as a sentence."""
    words, known = BY_NAME[name].words if name in BY_NAME else Event.words, {"step": 0, **fields}
    with suppress(KeyError):  # an event of another version
        return words.format_map(known) if isinstance(words, str) else words(known)
    details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fields.items() if value is not None)
    return f"{name}: {details}" if details else name
