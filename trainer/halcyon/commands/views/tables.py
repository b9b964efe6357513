"""Tables and lines that fit the terminal.

A table that is too wide leaves out columns, those of least worth first, and names them below. It cuts no number: words
are wrapped instead. Without a terminal nothing is left out, and no rule is drawn, so that `grep` and `awk` see rows of
words.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich.box import SIMPLE_HEAD, Box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import strip_control_codes
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from halcyon_api.printable import VISIBLE

# rich drops a few control characters from each text that it prints. It keeps ESC, which a stranger's text may have.
_dropped: dict[int, int | None] = strip_control_codes.__defaults__[0]  # type: ignore[index]
_dropped |= {code: sign for code, sign in VISIBLE.items() if code not in _dropped}

ASCII_HEAD = Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)
"""A line below the heads, as in SIMPLE_HEAD."""
_WORDS = 24
"""Characters of a column of words below which it is not wrapped further while another column can be left out."""


class FittedTable(Table):
    """A table that leaves out columns where it would not fit.

    Args:
        titles: The titles of the columns of words.
        numbers: The titles of the columns of numbers, which follow. They are aligned to the right and never wrapped.
        drops: Titles of columns in the order in which they are left out. The other columns follow them, from the right
            on; the first column stays unless it is named here.
        title: The title of the table.
        caption: A line below it.
    """

    def __init__(
        self,
        *titles: str,
        numbers: Sequence[str] = (),
        drops: Sequence[str] = (),
        title: str | None = None,
        caption: str | None = None,
    ) -> None:
        super().__init__(title=title, title_justify="left", caption=caption, caption_justify="left", box=SIMPLE_HEAD)
        self._drops = tuple(drops)
        for one in titles:
            self.add_column(one, overflow="fold")
        for one in numbers:
            self.add_column(one, justify="right", no_wrap=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept, left_out = self._fitting(console, options)
        box = None if not console.is_terminal else ASCII_HEAD if options.ascii_only else SIMPLE_HEAD
        shown = Table(title=self.title, title_justify="left", caption=self.caption, caption_justify="left", box=box)
        shown.columns = [dataclasses.replace(column, _index=place) for place, column in enumerate(kept)]
        shown.rows = self.rows
        yield shown
        if left_out:
            names = ", ".join(" ".join(str(column.header).split()) for column in left_out if str(column.header))
            yield Text(f"  not shown in {options.max_width} columns: {names}", "dim")

    def _fitting(self, console: Console, options: ConsoleOptions) -> tuple[list[Column], list[Column]]:
        """The columns that fit, and those that do not."""
        wide = options.update(width=10_000)
        # The width of each column with its padding.
        needs = {column._index: self._measure_column(console, wide, column).maximum for column in self.columns}
        needs |= {one._index: min(needs[one._index], _WORDS) for one in self.columns if not one.no_wrap}
        kept = list(self.columns)
        named = {title: place for place, title in enumerate(self._drops)}
        order = sorted(
            (column for column in kept if column._index or str(column.header) in named),
            key=lambda column: (named.get(str(column.header), len(named)), -column._index),
        )
        left_out: list[Column] = []
        for column in order:
            if sum(needs[one._index] for one in kept) + len(kept) + 1 <= options.max_width:
                break
            kept.remove(column)
            left_out.append(column)
        return kept, sorted(left_out, key=lambda column: column._index)


@dataclasses.dataclass(frozen=True)
class Bars:
    """A few words, and bars after them as wide as there is room.

    Attributes:
        words: The words.
        draw: The bars for a width in characters.
        most: Their greatest width.
        coloured: Whether the bars say nothing without colours.
    """

    words: str
    draw: Callable[[int], Text]
    most: int
    coloured: bool = False

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        least = Measurement.get(console, options, Text(self.words)).minimum
        return Measurement(least, min(options.max_width, len(self.words) + 2 + self.most))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = min(self.most, options.max_width - len(self.words) - 2)
        if room < 1 or (self.coloured and console.color_system is None):
            yield Text(self.words)
        else:
            yield Text(f"{self.words}  " if self.words else "") + self.draw(room)


_BARS = " ▁▂▃▄▅▆▇█"
EIGHTHS = len(_BARS) - 1
"""Heights of a bar in a line."""


def bar_lines(levels: Iterable[int], lines: int = 1) -> Iterator[str]:
    """Bars beside each other, from the uppermost line on.

    Args:
        levels: The height of each, in `EIGHTHS` of a line.
        lines: Number of lines.
    """
    heights = list(levels)
    for below in reversed(range(0, lines * EIGHTHS, EIGHTHS)):
        yield "".join(_BARS[min(EIGHTHS, max(0, height - below))] for height in heights)


def numbers_table(title: str | None, *columns: str, left: int = 1) -> FittedTable:
    """A table without rows, whose columns are numbers.

    Args:
        title: Its title.
        columns: Names of its columns.
        left: Columns at the left that have words.
    """
    return FittedTable(*columns[:left], numbers=columns[left:], title=title)
