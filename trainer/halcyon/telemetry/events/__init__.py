"""All events of the log: their fields, their sentences, and what they change in the state of a process.

The reference page is generated from this table, and tests compare the log with it.

All lines also have the fields that the reference begins with. Events with ``every_process`` are written by each
process, the others by process 0 alone.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from halcyon.telemetry.events.ending import ENDING
from halcyon.telemetry.events.row import Event
from halcyon.telemetry.events.starting import STARTING
from halcyon.telemetry.events.training import TRAINING

EVENTS = (*STARTING, *TRAINING, *ENDING)
BY_NAME = {event.name: event for event in EVENTS}


def sentence(name: str, fields: Mapping[str, Any]) -> str:
    """One event as a sentence."""
    words, known = BY_NAME[name].words if name in BY_NAME else Event.words, {"step": 0, **fields}
    with suppress(KeyError):  # an event of another version
        return words.format_map(known) if isinstance(words, str) else words(known)
    details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in fields.items() if value is not None)
    return f"{name}: {details}" if details else name
