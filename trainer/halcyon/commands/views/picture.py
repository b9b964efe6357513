"""Tables of numbers, and terminal output as an SVG file, whose text can be searched and copied.

Rich renders it, because all other output uses `rich` too, so a picture needs no other package. The SVG frame is our
own: the frame of Rich fetches a font from the web, and a picture in documentation should make no requests.
"""

import io
from pathlib import Path

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from halcyon.commands.views.tables import FittedTable
from halcyon.host.errors import BadConfiguration

_MAX_WIDTH = 1000
"""Characters per line."""
_FRAME = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" class="{unique_id}-frame">
<style>
.{unique_id}-matrix {{
  font-family: "DejaVu Sans Mono", "Fira Code", Menlo, Consolas, ui-monospace, monospace;
  font-size: 21px; /* blocks of the first fonts are then as high as a line */
}}
{styles}
</style>
<defs>{lines}</defs>
<rect width="{width}" height="{height}" fill="#ffffff"/>
<g transform="translate({terminal_x}, 8)">
{backgrounds}
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""


def numbers_table(title: str | None, *columns: str, left: int = 1) -> FittedTable:
    """A table without rows, whose columns are numbers.

    Args:
        title: Its title.
        columns: Names of its columns.
        left: Columns at the left that have words.
    """
    return FittedTable(*columns[:left], numbers=columns[left:], title=title)


def write_picture(content: RenderableType, path: Path, option: str = "--plot") -> None:
    """Write the content as SVG.

    Args:
        content: What the terminal would show.
        path: The file.
        option: The option that named the file.

    Raises:
        BadConfiguration: The file cannot be written.
    """
    console = Console(file=io.StringIO(), record=True, width=_MAX_WIDTH, force_terminal=True, color_system="truecolor")
    console.width = Measurement.get(console, console.options, content).maximum
    console.print(content)
    svg = console.export_svg(title="", theme=DEFAULT_TERMINAL_THEME, code_format=_FRAME)
    # Glyphs fill their cells with any font, so that neighbouring bars touch.
    svg = svg.replace(" textLength=", ' lengthAdjust="spacingAndGlyphs" textLength=')
    try:
        path.write_text(svg, encoding="utf-8")
    except OSError as error:
        raise BadConfiguration(
            f"{path} cannot be written: {error.strerror}; choose another path for {option}"
        ) from None
