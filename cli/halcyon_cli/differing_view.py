"""A difference as a terminal shows it: one line per field, then one sentence."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from halcyon_api.edits.changes import shown
from halcyon_api.edits.classes import EditClass
from halcyon_cli.differing import Difference, Outcome

_CLASSES: dict[EditClass, str] = {"live": "live", "atCheckpoint": "at a checkpoint", "frozen": "frozen"}
_STYLES: dict[Outcome, str] = {
    "nothing": "dim",
    "atOnce": "green",
    "restart": "yellow",
    "later": "yellow",
    "refused": "red",
}


def difference_view(found: Difference) -> RenderableType:
    """Return a table of the fields that differ, and the sentence about the effect of applying."""
    last = Text(found.sentence, style=_STYLES[found.outcome])
    if not found.effects:
        return last
    table = Table(box=None, pad_edge=False)
    for column in ("field", "old", "new", "class", "applying it"):
        table.add_column(column, overflow="fold")
    for effect in found.effects:
        old, new = Text(shown(effect.change.old)), Text(shown(effect.change.new))
        style = _STYLES[effect.outcome]
        table.add_row(
            Text(effect.change.path), old, new, _CLASSES[effect.change.edit], Text(effect.sentence, style=style)
        )
    return Group(table, Text(""), last)
