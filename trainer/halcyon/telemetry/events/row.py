"""One kind of event: its fields, its sentence, and what it changes in the state."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from halcyon.telemetry.termination import clip

if TYPE_CHECKING:
    from halcyon.telemetry.state import State

Fields = Mapping[str, Any]
"""The fields of an event, in snake_case."""
Words = Callable[[Fields], str]
"""A sentence, from the fields of an event."""
Change = Callable[["State", Fields, Any], "State"]
"""The state after an event, from the state at this moment, the fields, and what the event is made from."""


@dataclass(frozen=True)
class Event:
    """One kind of line."""

    name: str
    meaning: str
    fields: dict[str, str] = field(default_factory=dict)
    words: str | Words = "{message}"
    """The event as a sentence for people: a format of its fields, or a function of them."""
    counts: tuple[str, str] | None = None
    """Name and meaning of the counter of these events in the process, which is a metric."""
    shows: Mapping[str, str] = field(default_factory=dict)
    """Fields of the state that then have the value of a field of the event; a text is cut."""
    change: Change | None = None
    """What else it changes."""
    every_process: bool = False
    open_fields: bool = False
    """Whether the event may have further fields."""
    on_screen: bool = True
    """Whether a terminal shows it; one with too many numbers is for the report of a chain."""

    def changed(self, state: State, fields: Fields, report: Any) -> State:
        """The state after the event, from the state at this moment."""
        shown = {name: fields[own] for name, own in self.shows.items()}
        state = state.but(**{name: clip(value) if isinstance(value, str) else value for name, value in shown.items()})
        if self.counts:
            state = state.counted(self.counts[0])
        return state if self.change is None else self.change(state, fields, report)
